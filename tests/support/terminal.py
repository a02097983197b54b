"""A server in a pseudo terminal, and what a person sees of it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyte

from tests.support.serving import HANGS_S

ROOT = Path(__file__).parents[2]


class Terminal:
    def __init__(self, pid: int, fd: int, columns: int, rows: int) -> None:
        self.pid = pid
        self.written = b""
        self.screen = pyte.Screen(columns, rows)
        self._fd = fd
        self._stream = pyte.ByteStream(self.screen)

    @property
    def lines(self) -> list[str]:
        """Those of the screen that have something."""
        return [line.rstrip() for line in self.screen.display if line.strip()]

    def until(self, seen: Callable[[str], object], within_s: float = HANGS_S) -> str:
        """Returns the text of the screen once it is `seen`."""
        deadline = time.monotonic() + within_s
        while not seen(text := "\n".join(self.lines)):
            assert time.monotonic() < deadline, text
            assert self._read(0.1), text
        return text

    def find(self, pattern: str, within_s: float = HANGS_S) -> str:
        return self.until(lambda text: re.search(pattern, text, re.MULTILINE), within_s)

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        self.screen.resize(30, columns)

    def end(self) -> int:
        """Ctrl-C; returns the exit code."""
        os.write(self._fd, b"\x03")
        return self.ended()

    def ended(self) -> int:
        while self._read(HANGS_S):
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self, wait_s: float) -> bool:
        if not select.select([self._fd], [], [], wait_s)[0]:
            return True
        try:
            text = os.read(self._fd, 65_536)
        except OSError:  # the last process has closed it
            return False
        self.written += text
        self._stream.feed(text)
        return bool(text)


@contextmanager
def opened(
    *arguments: str,
    python: str = sys.executable,
    columns: int = 100,
    rows: int = 30,
    **environment: str,
) -> Iterator[Terminal]:
    """`serve_hathora.py` with these arguments. `python`: of another environment."""
    ours = {"LOG_FILE": "", "HOST": "127.0.0.1", "PORT": "0", "TERM": "xterm-256color"}
    plain = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    command = [python, str(ROOT / "serve_hathora.py"), *arguments]
    pid, fd = pty.fork()
    if pid == 0:
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        os.execve(python, command, plain | ours | environment)
    terminal = Terminal(pid, fd, columns, rows)
    try:
        yield terminal
    finally:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(fd)
