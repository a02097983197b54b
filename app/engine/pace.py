"""How many of the engine's steps a request's frame carries: one, unless the event loop lags."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from app.engine.inbox import Inbox

_WINDOW_S = 0.25
_WIDEN_ABOVE = 0.4
_NARROW_BELOW = 0.3
_LONGEST_HOLD_S = 0.1


class Pace:
    """Wakes each request only at every `stride`-th step of the engine while the event loop lags.

    A frame costs the same whether it carries one token or four. When the work of one step takes
    more than `_WIDEN_ABOVE` of the time until the next, frames grow instead of queues: streams
    become coarser, new requests are admitted sooner, the engine keeps its processor. Frames shrink
    when smaller ones would take less than `_NARROW_BELOW`. First and last tokens never wait, others
    no longer than `_LONGEST_HOLD_S`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        widest: int,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`widest`: the largest stride; 1 switches this off."""
        self._loop = loop
        self._widest = widest
        self._clock = clock
        self.stride = 1
        self._step = 0
        self._busy_s = 0.0
        self._since = clock()
        self._began = 0.0
        self._held: dict[Inbox, None] = {}
        self._release: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """A step's output has arrived."""
        self._step += 1
        self._began = self._clock()

    def put(self, inbox: Inbox) -> None:
        """`inbox` has got a chunk that may wait."""
        if self.stride == 1:  # nothing is held
            inbox.wake()
            return
        if inbox.step != self._step:  # once per step, not per choice
            inbox.step = self._step
            inbox.phase += 1
        if inbox.phase % self.stride == 0:
            self._held.pop(inbox, None)
            inbox.wake()
            return
        self._held[inbox] = None
        if self._release is None:
            self._release = self._loop.call_later(_LONGEST_HOLD_S, self.release)

    def end(self) -> None:
        """The step's output is delivered; the requests that it woke run before `_settled`."""
        if self._widest > 1:
            self._loop.call_soon(self._settled)

    def release(self) -> None:
        """Wake every request that was held back."""
        if self._release is not None:
            self._release.cancel()
            self._release = None
        held, self._held = self._held, {}
        for inbox in held:
            inbox.wake()

    def _settled(self) -> None:
        now = self._clock()
        self._busy_s += now - self._began
        elapsed_s = now - self._since
        if elapsed_s < _WINDOW_S:
            return
        busy = self._busy_s / elapsed_s
        if busy > _WIDEN_ABOVE and self.stride < self._widest:
            self.stride += 1
        elif self.stride > 1 and busy * self.stride / (self.stride - 1) < _NARROW_BELOW:
            self.stride -= 1
            if self.stride == 1:
                self.release()
        self._busy_s, self._since = 0.0, now
