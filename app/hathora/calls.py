"""How calls to Google Cloud fail, how long they may take together, and when they are made again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from app.logs.setup import log

T = TypeVar("T")

_CALL_TIMEOUT_S, _LEAST_TIMEOUT_S = 10.0, 0.05
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 5.0
_FINAL = {400, 401, 403, 404}
_LONGEST_TEXT = 400


class CallFailed(Exception):
    """A call failed, or the operation that it began. `str()` is one line.

    `status` is HTTP's, None where nobody answered; `transient`: the same call may succeed later.
    """

    def __init__(self, text: str, *, status: int | None = None, transient: bool = False) -> None:
        text = " ".join(text.split())
        super().__init__(text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "...")
        self.status = status
        self.transient = transient

    @property
    def not_found(self) -> bool:
        text = str(self).lower()
        return self.status == 404 or "not found" in text or "not_found" in text

    @property
    def conflict(self) -> bool:
        return self.status == 409 or "already" in str(self).lower()


class Deadline:
    """The time that some calls may take together; whoever sets `stop` ends it sooner."""

    def __init__(self, timeout_s: float, stop: threading.Event | None = None) -> None:
        self._timeout_s = timeout_s
        self._ends_at = time.monotonic() + timeout_s
        self._stop = stop or threading.Event()

    @property
    def left_s(self) -> float:
        return max(0.0, self._ends_at - time.monotonic())

    @property
    def call_timeout_s(self) -> float:
        return max(_LEAST_TIMEOUT_S, min(_CALL_TIMEOUT_S, self.left_s))

    def half(self) -> Deadline:
        return Deadline(self.left_s / 2, self._stop)

    def pause(self, pause_s: float) -> None:
        self._stop.wait(min(pause_s, self.left_s))

    def check(self, after: CallFailed | None = None) -> None:
        """Raise CallFailed if the time is over; `after` is what went wrong last."""
        why = f": {after}" if after else ""
        if self._stop.is_set():
            raise CallFailed(f"stopped{why}")
        if self.left_s <= 0:
            raise CallFailed(f"not done within {self._timeout_s:g} s{why}")

    def retry(self, what: str, attempt: Callable[[], T]) -> T:
        """What `attempt` returns; again, after a while, as long as its failures are transient."""
        # Not the library's Retry: it sleeps on, whatever the deadline or `stop` say.
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
                    log.warning("trying again", call=what, reason=str(error), left_s=left_s)
                failure = error
            self.pause(pause_s)
        raise AssertionError("the pauses never end")


class NetworkFailed(Exception):
    """One line for the operator. `permanent`: trying again cannot help."""

    def __init__(self, text: str, *, permanent: bool = False) -> None:
        super().__init__(text)
        self.permanent = permanent


@contextmanager
def doing(what: str, *, if_not_found: str | None = None) -> Iterator[None]:
    """CallFailed inside becomes a NetworkFailed that says what was being done."""
    try:
        yield
    except CallFailed as error:
        hint = f"; {if_not_found}" if if_not_found and error.status == 404 else ""
        if error.status == 401:
            hint = "; the key was deleted or disabled, or this machine's clock is wrong"
        permanent = error.status in _FINAL and not error.transient
        raise NetworkFailed(f"{what}: {error}{hint}", permanent=permanent) from error
