"""How calls to Google Cloud fail, and how their failures are reported to the operator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_FINAL_STATUSES = {400, 401, 403, 404}
_LONGEST_TEXT = 400


class CallFailed(Exception):
    """A call failed, or the operation that it started. `str()` is one line.

    `status` is the HTTP status, None where there was no answer; `transient`: the same call may
    succeed later.
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


class NetworkFailed(Exception):
    """One line for the operator. `permanent`: trying again cannot help."""

    def __init__(self, text: str, *, permanent: bool = False) -> None:
        super().__init__(text)
        self.permanent = permanent


@contextmanager
def network_failure(problem: str, *, if_not_found: str | None = None) -> Iterator[None]:
    """Turn a CallFailed inside into a NetworkFailed whose text begins with `problem`.

    `if_not_found` is added as a hint where the API answers 404.
    """
    try:
        yield
    except CallFailed as error:
        hint = f"; {if_not_found}" if if_not_found and error.status == 404 else ""
        if error.status == 401:
            hint = "; the key was deleted or disabled, or this machine's clock is wrong"
        permanent = error.status in _FINAL_STATUSES and not error.transient
        raise NetworkFailed(f"{problem}: {error}{hint}", permanent=permanent) from error
