"""The log of the engine's processes: their lines go to this server's process, in the common form.

SGLang configures logging in each of its processes from a dictConfig file; `PipeHandler` is what
that file names, by app/engine/child.py. Its lines go into file descriptor 1, which is a pipe that
the serving process reads (capture.py). That process always reads; where it stands still, the first
line that finds no room waits for a moment, and all are lost until there is room again.
"""

from __future__ import annotations

import logging
import os
import select
from contextlib import suppress

import orjson

from app.logs.form import Form
from app.logs.noise import demote
from app.logs.wire import LINE_BYTES, description_that_never_waits, pieces

_KEPT_OF_LONG = LINE_BYTES // 4
_WAIT_MS = 200


class PipeHandler(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self._form = Form("json")
        self._number = -1
        self._fd = description_that_never_waits(1)
        self._room = select.poll()
        self._room.register(self._fd, select.POLLOUT)
        self._reader_stands = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._emit(record)
        except Exception:  # as logging's own handlers: a log call must not raise in the engine
            self.handleError(record)

    def _emit(self, record: logging.LogRecord) -> None:
        if demote(record) and not logging.getLogger().isEnabledFor(logging.DEBUG):
            return
        self._number += 1
        line = self._form.text(record).encode(errors="backslashreplace")
        if len(line) > LINE_BYTES:
            line = _shortened(line)
        with suppress(OSError):  # the pipe is full, or the serving process has ended
            for piece in pieces(line.rstrip(b"\n"), os.getpid(), self._number):
                self._write(piece)

    def _write(self, piece: bytes) -> None:
        try:
            os.write(self._fd, piece)
        except BlockingIOError:
            if self._reader_stands or not self._room.poll(_WAIT_MS):
                self._reader_stands = True
                raise
            os.write(self._fd, piece)
        self._reader_stands = False


def _shortened(line: bytes) -> bytes:
    """Without the middle of its long texts: a traceback's cause is at its end."""
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError:  # half a surrogate pair is no text
        return line[:LINE_BYTES]
    for name, value in fields.items():
        text = value if isinstance(value, str) else repr(value)
        if len(text) > _KEPT_OF_LONG:
            half = _KEPT_OF_LONG // 2
            fields[name] = f"{text[:half]} ... {text[-half:]}"
    return orjson.dumps(fields)
