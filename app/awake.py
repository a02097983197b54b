"""The time in which this process has run.

Platforms freeze a warm worker and thaw it seconds or days later: a paused container, a snapshot of
the machine, SIGSTOP. Then the clocks have gone on, and every deadline would be over at once. What
waits for a client or for the engine is measured by `now` and ends by `Timer` or `timeout`, which
leave out what passed while the process was frozen.

A thaw is noticed by the first call of `now`, or by a timer that is due every `_LOOK_S`: an event
loop runs those that are late in the order in which they were due, so this one before each that was
due later.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

from app.logs.setup import log

_LOOK_S = 0.25
_FROZEN_S = 3.0
"""A look that comes so late says that the process was frozen, or its loop: no client and no engine
could have been heard meanwhile."""
_LATE_S = _LOOK_S + _FROZEN_S


class Awake:
    """The clock of one process. All methods belong to its event loop."""

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._monotonic, self._wall = monotonic, wall
        self._looked = monotonic()
        self._looked_wall = wall()
        self._timer: asyncio.TimerHandle | None = None
        self._thawed: list[Callable[[float], object]] = []
        self.frozen_s = 0.0
        """In all."""
        self.thawed_at = -math.inf
        """The last time, by `now`."""
        self._last_s = 0.0
        """Of a thaw whose listeners have not been called yet."""

    def now(self) -> float:
        """Seconds, as `time.monotonic`, but for what passed while the process was frozen."""
        now = self._monotonic()
        if now - self._looked > _LATE_S and self._timer is not None:
            self._note(now)
        return now - self.frozen_s

    def on_thaw(self, thawed: Callable[[float], object]) -> Callable[[], None]:
        """Call `thawed` after each thaw, with the seconds. Returns what ends that."""
        self._thawed.append(thawed)

        def end() -> None:
            with suppress(ValueError):
                self._thawed.remove(thawed)

        return end

    def start(self) -> None:
        """Look from now on. Idempotent."""
        if self._timer is None:
            self._looked, self._looked_wall = self._monotonic(), self._wall()
            self._again()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _again(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_LOOK_S, self._look)

    def _note(self, now: float) -> None:
        """Since the last look the process was frozen."""
        passed_s, wall = now - self._looked, self._wall()
        self.frozen_s += passed_s - _LOOK_S
        self._last_s = max(passed_s, wall - self._looked_wall) - _LOOK_S
        self._looked, self._looked_wall = now, wall
        self.thawed_at = now - self.frozen_s

    def _look(self) -> None:
        self._again()
        now, wall = self._monotonic(), self._wall()
        if now - self._looked > _LATE_S:
            self._note(now)
        # A snapshot may keep the monotonic clock and move the other one alone.
        jumped_s = (wall - self._looked_wall) - (now - self._looked)
        self._looked, self._looked_wall = now, wall
        frozen_s = max(self._last_s, jumped_s)
        self._last_s = 0.0
        if frozen_s > _FROZEN_S:
            self.thawed_at = now - self.frozen_s
            log.warning("this process, or its event loop, stood still", seconds=round(frozen_s, 1))
            for thawed in list(self._thawed):
                thawed(frozen_s)


AWAKE = Awake()
"""This process's."""
now = AWAKE.now


class Timer:
    """`call_later` by `now`."""

    __slots__ = ("_after_s", "_expired", "_frozen_s", "_handle")

    def __init__(self, after_s: float, expired: Callable[[], object]) -> None:
        self._frozen_s = AWAKE.frozen_s
        self._after_s = after_s
        self._expired = expired
        # It refers back to this object: let go of it at the end, so that both are freed at once.
        self._handle: asyncio.TimerHandle | None = asyncio.get_running_loop().call_later(
            after_s, self._fire
        )

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _fire(self) -> None:
        now()  # which notices a thaw
        handle, self._handle = self._handle, None
        # uvloop's of a time that is over at once has no `when`.
        missed_s = AWAKE.frozen_s - self._frozen_s
        if missed_s and handle is not None and hasattr(handle, "when"):
            loop = asyncio.get_running_loop()
            # A thaw that was noticed since may have come before this timer.
            missed_s = min(missed_s, loop.time() - handle.when() + self._after_s)
            left_s = handle.when() + missed_s - loop.time()
            if left_s > _LOOK_S:
                self._frozen_s, self._after_s = AWAKE.frozen_s, left_s
                self._handle = loop.call_later(left_s, self._fire)
                return
        self._expired()


class timeout(asyncio.Timeout):  # type: ignore[misc]  # noqa: N801  # as the other is called
    """`asyncio.timeout` by `now`."""

    def __init__(self, after_s: float) -> None:
        super().__init__(None)
        self._after_s = after_s
        self._timer: Timer | None = None

    def end_in(self, after_s: float) -> None:
        """From now."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = Timer(after_s, self._end)

    def _end(self) -> None:
        self.reschedule(0.0)

    async def __aenter__(self) -> Self:
        self._timer = Timer(self._after_s, self._end)
        await super().__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: Any
    ) -> None:
        """Raises TimeoutError."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await super().__aexit__(kind, error, at)
