"""The last answers that were errors, of every serving process, for the page at `/`.

    errors_<pid>     slots of 512 bytes, each one entry as JSON; the oldest is written over

Beside the files of the metrics, in the folder that all processes of a server share: each process
writes its own file, and any of them reads all.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

_SLOTS = 20
_SLOT_BYTES = 512
_LONGEST = 80
"""Characters of a text in an entry."""
_UNTOLD = frozenset({401, 405, 499})
"""A wrong key, a wrong method (of `/`, which needs no key), a client that has left: anybody can
make thousands of them, and they would hide what the operator looks for."""


class RecentError(msgspec.Struct, frozen=True):
    """Nothing of what the client sent but its request's id, which the log has, too."""

    at: float
    """Seconds since 1970."""
    status: int
    """200 if the answer had begun."""
    code: str
    route: str
    id: str


class RecentErrors:
    def __init__(self, folder: Callable[[], Path]) -> None:
        """`folder`: where the files of the metrics are; asked for at the first error."""
        self._folder = folder
        self._own: deque[RecentError] = deque(maxlen=_SLOTS)
        self._count = 0
        self._file: int | None = None

    def note(self, *, status: int, code: str | None, route: str, id: str) -> None:
        if status in _UNTOLD or route == "unmatched":
            return
        error = RecentError(
            time.time(), status, (code or "")[:_LONGEST], route[:_LONGEST], id[:_LONGEST]
        )
        self._own.append(error)
        try:
            if self._file is None:
                path = self._folder() / f"errors_{os.getpid()}"
                self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
            slot = msgspec.json.encode(error).ljust(_SLOT_BYTES)
            os.pwrite(self._file, slot, self._count % _SLOTS * _SLOT_BYTES)
        except OSError:
            # The disk is full: this process alone will show it. `serve_metric_series_lost` tells.
            return
        self._count += 1

    def last(self) -> list[RecentError]:
        """Of all processes, the newest first. Reads files."""
        own = self._folder() / f"errors_{os.getpid()}"
        errors = list(self._own)
        for path in self._folder().glob("errors_*"):
            if path != own:
                errors += _read(path)
        return sorted(errors, key=lambda error: -error.at)[:_SLOTS]

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _read(path: Path) -> list[RecentError]:
    """The entries of another process's file, which may be at one of them just now, or be gone."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    errors = []
    for at in range(0, len(content), _SLOT_BYTES):
        try:
            errors.append(msgspec.json.decode(content[at : at + _SLOT_BYTES], type=RecentError))
        except msgspec.DecodeError:  # half written: the next reading has it
            continue
    return errors
