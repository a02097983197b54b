"""One timer, which is stopped and started again with what the connection waits for."""

from __future__ import annotations

from collections.abc import Callable

from app.awake import Timer


class Deadline:
    __slots__ = ("timer",)

    def __init__(self) -> None:
        self.timer: Timer | None = None
        """None unless it was started and not stopped since."""

    def start(self, after_s: float, expired: Callable[[], None]) -> None:
        """Call `expired` after `after_s` seconds. Stop an earlier timer first."""
        self.timer = Timer(after_s, expired)

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
