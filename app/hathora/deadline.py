"""How long calls to Google Cloud may take together, and when a failed one is tried again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from app.hathora.failures import CallFailed
from app.logs.setup import log

T = TypeVar("T")

_CALL_TIMEOUT_S, _SHORTEST_TIMEOUT_S = 10.0, 0.05
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 5.0


class Deadline:
    """The time that several calls may take together; setting `stop` ends it early."""

    def __init__(self, timeout_s: float, stop: threading.Event | None = None) -> None:
        self._timeout_s = timeout_s
        self._ends_at = time.monotonic() + timeout_s
        self._stop = stop or threading.Event()

    @property
    def left_s(self) -> float:
        return max(0.0, self._ends_at - time.monotonic())

    @property
    def call_timeout_s(self) -> float:
        return max(_SHORTEST_TIMEOUT_S, min(_CALL_TIMEOUT_S, self.left_s))

    def half(self) -> Deadline:
        return Deadline(self.left_s / 2, self._stop)

    def pause(self, pause_s: float) -> None:
        self._stop.wait(min(pause_s, self.left_s))

    def check(self, last_failure: CallFailed | None = None) -> None:
        """Raise CallFailed, naming `last_failure`, if the time is over or `stop` is set."""
        reason = f": {last_failure}" if last_failure else ""
        if self._stop.is_set():
            raise CallFailed(f"stopped{reason}")
        if self.left_s <= 0:
            raise CallFailed(f"not done within {self._timeout_s:g} s{reason}")

    def retry(self, action: str, attempt: Callable[[], T]) -> T:
        """Return the result of `attempt`, calling it again while its failures are transient."""
        # The library's own Retry would keep sleeping past the deadline and after `stop`.
        from google.api_core.retry import exponential_sleep_generator

        failure: CallFailed | None = None
        for pause_s in exponential_sleep_generator(_FIRST_PAUSE_S, _LONGEST_PAUSE_S):
            self.check(failure)
            try:
                return attempt()
            except CallFailed as error:
                if not error.transient:
                    raise
                if str(error) != str(failure):
                    left_s = round(self.left_s, 1)
                    log.warning("trying again", call=action, reason=str(error), left_s=left_s)
                failure = error
            self.pause(pause_s)
        raise AssertionError("exponential_sleep_generator never ends")
