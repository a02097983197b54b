"""How the lines of child processes share one pipe with raw text.

A line is cut into pieces that the kernel never mixes with another process's (PIPE_BUF):

    RS <pid> <number of the line> <pieces left> <piece of its JSON> LF

Everything else in the pipe is raw text: a traceback, a library's print, a message of C++.
"""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import orjson

from app.logs.form import timestamp

LINE_BYTES = 16_384
"""Of one line, whatever it says: a full queue must not hold much memory."""
RAW = "output"
"""The logger of lines that were raw text."""
_MARK = b"\x1e"
_PIECE_BYTES = select.PIPE_BUF - 64
_SENDERS = 1000
_FIELDS = ("event", "level", "logger", "timestamp")


def pieces(line: bytes, sender: int, number: int) -> Iterator[bytes]:
    """A line as what is written to the pipe, each piece at once."""
    parts = [line[at : at + _PIECE_BYTES] for at in range(0, len(line), _PIECE_BYTES)]
    for left, part in zip(reversed(range(len(parts))), parts, strict=True):
        yield b"%b%d %d %d %b\n" % (_MARK, sender, number, left, part)


def description_that_never_waits(fd: int) -> int:
    """A descriptor of the same pipe on which writes do not wait: on `fd` itself, which is shared
    with other programs, they must. `fd` if it is no pipe."""
    with suppress(OSError):  # no /proc
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK)
    return fd


class _Sender:
    """What is known of a process: its last line, and what came of it so far."""

    def __init__(self) -> None:
        self.number = -1
        self.left = 0
        self.parts: list[bytes] = []


class Lines:
    """Takes the pipe's text apart."""

    def __init__(self) -> None:
        self.lost = 0
        """Lines that a process could not write, because the pipe was full."""
        self._rest = b""
        self._senders: dict[int, _Sender] = {}

    @property
    def unfinished(self) -> bytes:
        """What has no end yet."""
        return self._rest

    def feed(self, text: bytes) -> Iterator[dict[str, Any]]:
        *complete, self._rest = (self._rest + text).split(b"\n")
        for each in complete:
            yield from self._line(each)
        if len(self._rest) > LINE_BYTES:
            yield from self.finish()

    def finish(self) -> Iterator[dict[str, Any]]:
        """What has no end yet."""
        rest, self._rest = self._rest, b""
        yield from self._line(rest)

    def _line(self, text: bytes) -> Iterator[dict[str, Any]]:
        raw, mark, piece = text.partition(_MARK)
        yield from _raw(raw)
        if mark:
            try:
                yield from self._piece(*piece.split(b" ", 3))
            except (ValueError, TypeError, KeyError):  # it only looks like a piece
                yield from _raw(piece)

    def _piece(
        self, pid: bytes, no: bytes, remaining: bytes, part: bytes
    ) -> Iterable[dict[str, Any]]:
        if len(self._senders) > _SENDERS:
            self._senders.clear()
        sender = self._senders.setdefault(int(pid), _Sender())
        number, left = int(no), int(remaining)
        if number != sender.number:
            if 0 <= sender.number < number:
                self.lost += number - sender.number - (not sender.left)
            sender.number, sender.parts = number, []
        elif left != sender.left - 1:
            raise ValueError
        sender.left = left
        sender.parts.append(part)
        if left:
            return ()
        line = orjson.loads(b"".join(sender.parts))
        sender.parts = []
        if not all(isinstance(line[name], str) for name in _FIELDS):
            raise ValueError
        return (line,)


def _raw(text: bytes) -> Iterator[dict[str, Any]]:
    """A line of raw text as a line of the log. Of a progress bar, what a terminal would show."""
    shown = text.rstrip().rpartition(b"\r")[2]
    for at in range(0, len(shown), LINE_BYTES):
        yield {
            "event": shown[at : at + LINE_BYTES].decode(errors="backslashreplace"),
            "logger": RAW,
            "level": "info",
            "timestamp": timestamp(datetime.now(UTC)),
        }
