"""File descriptors 1 and 2 of this process: a pipe that it reads itself.

    engine's processes ─ lines (engine.py) ──┐
    they, and libraries here ─ raw text ─────┴─ 1, 2 ─ pipe ─ thread ─ bounded queue ─ writer.py

Child processes inherit both, so that none can write anywhere else: a reader of the log that stops
reading stops no process. The thread always reads, and drops what the queue has no room for.
"""

from __future__ import annotations

import faulthandler
import fcntl
import logging
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

from app.logs.wire import RAW, Lines, description_that_never_waits

_PIPE_BYTES = 2**20
"""As much as the kernel allows everyone: what children write while this process is busy."""
_READ_BYTES = 2**16
_GATHER_S = 0.05
_TRACEBACK = "Traceback (most recent call last):"
_logger = logging.getLogger(__name__)


class Capture(threading.Thread):
    def __init__(self, put: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(name="output", daemon=True)
        _flush_streams()
        self.outside = os.dup(1), os.dup(2)
        """What both were before. No child inherits these by itself."""
        self.stdout: TextIO = os.fdopen(
            os.dup(1), "w", encoding=sys.stdout.encoding, errors="backslashreplace"
        )
        # What this process writes when it crashes is lost with the pipe, but for this.
        faulthandler.enable(description_that_never_waits(self.outside[1]))
        self._put = put
        self._lines = Lines()
        self._reading = threading.Lock()
        self._errors = _LastError()
        self._ended = False
        self._pipe, end = os.pipe()
        os.set_blocking(self._pipe, False)
        with suppress(OSError):
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        os.register_at_fork(after_in_child=lambda: os.close(self._pipe))
        for fd in (1, 2):
            os.dup2(end, fd)
        os.close(end)

    @property
    def lost(self) -> int:
        """Lines that children could not write because the pipe was full."""
        return self._lines.lost

    @property
    def unfinished(self) -> bytes:
        """What a child has written of a line that has no end yet: a progress bar, mostly."""
        return self._lines.unfinished

    @property
    def last_error(self) -> str | None:
        """The last line of the last error of a child: of a traceback, the cause."""
        self.catch_up()
        return self._errors.text

    def run(self) -> None:
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        while not self._ended:
            poll.poll()
            try:
                taken = self.catch_up()
            except Exception:  # without this thread, every child's next print would wait for ever
                _logger.exception("a line of a child process cannot be read")
                taken = 0
            if taken < _READ_BYTES:
                time.sleep(_GATHER_S)  # lines gather meanwhile, without waking this thread

    def catch_up(self) -> int:
        """Take what is in the pipe now; returns the number of bytes."""
        taken = 0
        with self._reading, suppress(BlockingIOError):
            while taken < _PIPE_BYTES and (text := os.read(self._pipe, _READ_BYTES)):
                taken += len(text)
                for line in self._lines.feed(text):
                    self._errors.note(line)
                    self._put(line)
            # No process has the other end any more: `release` was called, the children are gone.
            self._ended = taken < _PIPE_BYTES
        return taken

    def finish(self) -> None:
        """Take what is left, a line without its end included."""
        _flush_streams()
        self.catch_up()
        with self._reading:
            for line in self._lines.finish():
                self._put(line)

    def release(self) -> None:
        """Make 1 and 2 what they were."""
        for fd, outside in zip((1, 2), self.outside, strict=True):
            os.dup2(outside, fd)


class _LastError:
    """The last error of a child: one that it logged, or else a traceback that it printed."""

    def __init__(self) -> None:
        self._logged: str | None = None
        self._printed: str | None = None
        self._in_traceback = False

    @property
    def text(self) -> str | None:
        return self._logged or self._printed

    def note(self, line: dict[str, Any]) -> None:
        if line["logger"] == RAW:
            self._note_printed(line["event"])
        elif line["level"] in ("error", "critical"):
            text = f"{line['event']}\n{line.get('exception', '')}"
            lines = [each.strip() for each in text.splitlines()]
            telling = [each for each in lines if each and not set(each) <= set("^~- ")]
            self._logged = telling[-1][:800] if telling else self._logged

    def _note_printed(self, text: str) -> None:
        if text.startswith(_TRACEBACK):
            self._in_traceback = True
        elif self._in_traceback and not text.startswith(" "):
            self._in_traceback = False
            self._printed = text[:800]


def _flush_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # it is closed, or there is none
            stream.flush()
