"""The thread that writes the log: a bounded queue in front of it, stdout and a file behind it.

A reader of the log that stops reading, or a full disk, costs lines and nothing else: the event
loop never waits for the log.
"""

from __future__ import annotations

import logging.handlers
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol, TextIO

from app.logs.form import Line

_QUEUE_SIZE = 10_000
_FOR_CHILDREN = 5_000
"""Of the queue, so that a child that writes very much takes no line from this process."""
_BATCH = 500
_GATHER_S = 0.05
_REDRAW_S = 0.2
_FILE_BYTES, _FILES_KEPT = 10_000_000, 5


class LineForm(Protocol):
    def text(self, line: Line) -> str:
        """The line and its end, or "" if it is not written. Never raises."""


class Target(Protocol):
    """Where lines are written. `write` raises OSError or ValueError if that is not possible."""

    @property
    def form(self) -> LineForm: ...

    def write(self, lines: str) -> None: ...


class Redrawn(Protocol):
    """A target that shows something that changes by itself."""

    @property
    def redraws(self) -> bool: ...

    def redraw(self) -> None:
        """Raises as `Target.write`."""

    def finish(self) -> None:
        """The same, for the last time."""


class Stdout:
    """`stream`: where it goes if sys.stdout no longer leads outside (capture.py)."""

    def __init__(self, form: LineForm) -> None:
        self.form = form
        self.stream: TextIO | None = None

    @property
    def _outside(self) -> TextIO:
        return self.stream or sys.stdout

    def write(self, lines: str) -> None:
        stream = self._outside
        stream.write(lines)
        stream.flush()


def private(path: str, flags: int) -> int:
    """An `opener` whose new files only this user can read: at debug they hold prompts."""
    return os.open(path, flags, 0o600)


class _Private(logging.FileHandler):
    def _open(self) -> Any:
        return open(self.baseFilename, self.mode, encoding="utf-8", opener=private)


class RotatedFile(_Private, logging.handlers.RotatingFileHandler):
    pass


class WatchedFile(_Private, logging.handlers.WatchedFileHandler):
    pass


class File:
    """Rotated at 10 MB by one of the processes that write to it; the others follow."""

    def __init__(self, form: LineForm, path: str, *, rotates: bool) -> None:
        self.form = form
        self._rotates = rotates
        self._handler: Any = (
            RotatedFile(path, backupCount=_FILES_KEPT, delay=True)
            if rotates
            else WatchedFile(path, delay=True)
        )

    def write(self, lines: str) -> None:
        handler = self._handler
        if handler.stream is None:
            handler.stream = handler._open()
        if not self._rotates:
            handler.reopenIfNeeded()
        handler.stream.write(lines)
        handler.stream.flush()
        if self._rotates and handler.stream.tell() >= _FILE_BYTES:
            handler.doRollover()


class Writer(threading.Thread):
    """Writes the queued lines in batches, each line rendered once for all targets of one form.

    It sleeps between two batches. Woken by each line it would take the interpreter from the event
    loop each time, which costs a request as much as its template.
    """

    def __init__(self, targets: Sequence[Target], redrawn: Redrawn | None = None) -> None:
        """`redrawn`: of the targets, the one that is redrawn in between."""
        super().__init__(name="log", daemon=True)
        self.lost = 0
        """Lines that were dropped because the queue was full or a target could not be written."""
        self._targets = targets
        self._redrawn = redrawn
        self._lines: deque[Line] = deque()
        self._work = threading.Event()
        self._idle = False
        self._stopping = False

    def put(self, line: Line) -> None:
        if len(self._lines) >= _QUEUE_SIZE:
            self.lost += 1
            return
        self._lines.append(line)
        if self._idle:
            self._idle = False
            self._work.set()

    def put_of_child(self, line: Line) -> None:
        """Queue what a child process wrote."""
        if len(self._lines) >= _FOR_CHILDREN:
            self.lost += 1
        else:
            self.put(line)

    def wake(self) -> None:
        """Look whether there is something to redraw."""
        self._work.set()

    def stop(self) -> None:
        """Write what is queued, then end."""
        self._stopping = True
        self._work.set()
        self.join()

    def run(self) -> None:
        while not self._stopping:
            if self._lines:
                self._write_queued()
                time.sleep(_GATHER_S)  # lines gather meanwhile, without waking this thread
                continue
            self._work.clear()
            self._idle = True
            if not self._lines and not self._stopping:  # no line came before `_idle` was set
                self._work.wait(self._redraw())
            self._idle = False
        self._write_queued()
        if self._redrawn is not None:
            with suppress(OSError, ValueError):  # the terminal is gone
                self._redrawn.finish()

    def _redraw(self) -> float | None:
        """Returns in how many seconds to do so again; None: there is nothing to redraw."""
        if self._redrawn is None or not self._redrawn.redraws:
            return None
        with suppress(OSError, ValueError):  # the terminal is gone
            self._redrawn.redraw()
        return _REDRAW_S

    def _write_queued(self) -> None:
        while self._lines:
            count = min(_BATCH, len(self._lines))
            self._write([self._lines.popleft() for _ in range(count)])

    def _write(self, lines: list[Line]) -> None:
        rendered: dict[LineForm, str] = {}
        for target in self._targets:
            if (form := target.form) not in rendered:
                rendered[form] = "".join([form.text(line) for line in lines])
            try:
                target.write(rendered[form])
            except (OSError, ValueError):  # its reader has gone, the disk is full, it is closed
                self.lost += len(lines)
