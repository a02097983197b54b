"""prometheus_client's files, allocated before they are mapped.

It makes them longer without allocating blocks, so that on a full disk the first write to a new page
ends the process with SIGBUS. A series for which there is no room lives in its process's memory
alone, and is tried again later, with all that was counted.

prometheus_client must not be imported before PROMETHEUS_MULTIPROC_DIR is in the environment.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

from prometheus_client import mmap_dict, values

_TRY_AGAIN_S = 10.0
_ENTRY_BYTES = 32
"""Of a series beside its key: length, padding, value, time."""
_logger = logging.getLogger(__name__)
_pack_two_doubles: Any = mmap_dict._pack_two_doubles
_files: list[AllocatedFile] = []


def allocate_first() -> None:
    """In this process, from now on. Called before the first metric is made."""
    vars(values)["MmapedDict"] = AllocatedFile


def series_lost() -> int:
    """Series of this process that no scrape shows."""
    return sum(len(file.lost) for file in _files)


def folder() -> Path:
    """Where the files of all processes are."""
    return Path(_files[0]._fname).parent


Series: TypeAlias = tuple[str, tuple[str, ...]]
"""A series' name, and its labels' values in the order of the labels' names."""


def sums(prefix: str) -> dict[Series, float]:
    """Counters and histograms whose names begin so, added up over the processes. Buckets are not
    cumulative.

    A scrape makes objects of every series, SGLang's hundreds, too; this is for each second. Reads
    files: call it in a thread.
    """
    begins = json.dumps([prefix])[:-2]
    total: dict[Series, float] = defaultdict(float)
    for path in folder().glob("*.db"):
        if path.name.startswith(("counter_", "histogram_")):
            for key, value in _values(path):
                if key.startswith(begins):
                    total[_series(key)] += value
    return total


def _values(path: Path) -> Iterable[tuple[str, float]]:
    read: Any = mmap_dict.MmapedDict.read_all_values_from_file
    try:
        return [(key, value) for key, value, _, _ in read(str(path))]
    except FileNotFoundError:  # its process has just ended
        return []


@lru_cache(maxsize=4096)
def _series(key: str) -> Series:
    _, name, labels, _ = json.loads(key)
    return name, tuple(labels[label] for label in sorted(labels))


class AllocatedFile(mmap_dict.MmapedDict):
    """prometheus_client's file of one process (0.26: mmap_dict.py), which may have no room.

    It calls `read_value` for each new series, `write_value` for each event, with its own lock.
    """

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        self.lost: set[str] = set()
        self._try_again_at = 0.0
        self._fname = filename
        self._positions: dict[str, int] = {}
        self._without_file()
        with suppress(OSError):  # each series tries again
            self._open()
        _files.append(self)

    def read_value(self, key: str) -> tuple[float, float]:
        if key in self._positions or self._has_room(key):
            value, timestamp = super().read_value(key)  # type: ignore[no-untyped-call]
            return value, timestamp
        return 0.0, 0.0

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        try:
            position = self._positions[key]
        except KeyError:
            if self._has_room(key):
                super().write_value(key, value, timestamp)  # type: ignore[no-untyped-call]
        else:  # ten times a request: as the parent class does it, without a call more
            _pack_two_doubles(self._m, position, value, timestamp)

    def close(self) -> None:
        super().close()  # type: ignore[no-untyped-call]
        if self in _files:
            _files.remove(self)

    def _has_room(self, key: str) -> bool:
        size = len(key.encode()) + _ENTRY_BYTES
        if self._used + size > self._capacity and time.monotonic() >= self._try_again_at:
            try:
                self._make_room(size)
            except OSError as error:
                self._try_again_at = time.monotonic() + _TRY_AGAIN_S
                _logger.warning("no room for metrics: %s: %s", self._fname, error.strerror)
        if self._used + size > self._capacity:
            self.lost.add(key)
            return False
        self.lost.discard(key)
        return True

    def _make_room(self, size: int) -> None:
        if self._f is None:
            self._open()
        capacity = self._capacity
        while self._used + size > capacity:
            capacity *= 2
        if capacity > self._capacity:
            # Not by its own descriptor, which appends: where the C library allocates by writing,
            # because the file system cannot, it refuses those.
            with open(self._fname, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, capacity)
            self._m = mmap.mmap(self._f.fileno(), capacity)
            self._capacity = capacity

    def _open(self) -> None:
        _make(self._fname)
        try:
            super().__init__(self._fname)  # type: ignore[no-untyped-call]
        except OSError:
            self._without_file()
            raise

    def _without_file(self) -> None:
        self._f: Any = None
        self._m: Any = None
        self._capacity = self._used = 0


def _make(path: str) -> None:
    """A new file under its name only when it is whole: a scrape reads each that it finds."""
    if os.path.exists(path):
        return
    unfinished = f"{path}.new"
    try:
        with open(unfinished, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, mmap_dict._INITIAL_MMAP_SIZE)
        os.rename(unfinished, path)
    except OSError:
        with suppress(OSError):
            os.unlink(unfinished)
        raise
