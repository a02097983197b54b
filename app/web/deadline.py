"""One timer, which is stopped and started again with what the connection waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Deadline:
    __slots__ = ("_loop", "timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.timer: asyncio.TimerHandle | None = None
        """None unless it was started and not stopped since."""

    def start(self, after_s: float, expired: Callable[[], None]) -> None:
        """Call `expired` after `after_s` seconds. Stop an earlier timer first."""
        self.timer = self._loop.call_later(after_s, expired)

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
