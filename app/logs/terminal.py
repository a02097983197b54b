"""A terminal: lines for people, and below them one line that says how far the start is.

What is below warning and not for people is held back: SGLang's lines, and those of ours that the
progress, the ready line and a request's own line say better. Once something goes wrong the last of
them are written before it, so that nothing that would explain it is missing.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable
from typing import TextIO, TypeAlias

from app.errors import ConfigError
from app.logs.form import NAME, Form, Line
from app.logs.progress import Progress, ProgressLine
from app.logs.wire import RAW
from app.logs.writer import Stdout

_HELD_LINES = 200
_ERASE = "\r\x1b[K"
_COLUMNS = 80
"""Of a terminal that does not say."""
_COVERED = frozenset({"listening", "phase", "request started", "downloading the model"})
_STILL = "still "
_INTERRUPTED = "stopped before the model was loaded"
"""What is held back may say why it took so long."""
_RANK = re.compile(r"^\[rank\d+\]: ?")
"""What torch writes before each line of a traceback."""
_BEGINNING = re.compile(
    r"Fatal Python error:|.*Traceback \(most recent call last\):|.*\(most recent call first\):$"
)
"""Of a traceback, or of the stack of a native crash."""

Source: TypeAlias = Callable[[], Progress | None]
"""Says how far the start is; None: it has ended."""


class HoldingForm:
    """As `Form`; the text of a line that is held back is empty, and that of an error has those
    before it."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._held: deque[str] = deque(maxlen=_HELD_LINES)
        self._count = 0
        self._in_traceback = False

    def text(self, line: Line) -> str:
        """Never raises."""
        name, level, event = _known(line)
        text = self._form.text(line)
        if name == RAW:
            if self._begins_or_goes_on(event):
                return self._released() + text
        elif level in ("error", "critical"):
            return text if _is_wrong_setting(line) else self._released() + text
        elif name == NAME and event == _INTERRUPTED:
            return self._released() + text
        elif level == "warning" or (name == NAME and not _is_covered(event)):
            return text
        self._held.append(text)
        self._count += 1
        return ""

    def _begins_or_goes_on(self, event: str) -> bool:
        """A traceback that was printed. Its end is the first line that is not indented."""
        text = _RANK.sub("", event)
        if _BEGINNING.match(text):
            self._in_traceback = True
            return True
        was, self._in_traceback = self._in_traceback, self._in_traceback and text[:1] == " "
        return was

    def _released(self) -> str:
        if not self._held:
            return ""
        kept, lost = len(self._held), self._count - len(self._held)
        of = f" (and {lost} before)" if lost else ""
        lines = "".join(self._held)
        self._held.clear()
        self._count = 0
        return f"-- {kept} lines{of} that were held back:\n{lines}--\n"


class Terminal(Stdout):
    """`unicode`: it shows more than ASCII."""

    def __init__(self, form: Form | HoldingForm, *, unicode: bool) -> None:
        super().__init__(form)
        self._source: Source | None = None
        self._line = ProgressLine(unicode=unicode)
        self._drawn = False

    @property
    def redraws(self) -> bool:
        return self._source is not None

    def show(self, source: Source) -> None:
        self._source = source

    def write(self, lines: str) -> None:
        if lines or self._source is not None or self._drawn:
            # What is on the cursor's line may be another process's progress: its parent's.
            self._put(_ERASE + lines + self._progress())

    def redraw(self) -> None:
        self.write("")

    def finish(self) -> None:
        self._source = None
        self.redraw()

    def _progress(self) -> str:
        progress = None if self._source is None else self._source()
        self._drawn = progress is not None
        if progress is None:
            self._source = None
            return ""
        # The last column stays free: a cursor beyond it would be on the next row.
        return self._line.text(progress, self._columns() - 1)

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._outside.fileno()).columns or _COLUMNS
        except (OSError, ValueError):  # it is none any more
            return _COLUMNS

    def _put(self, text: str) -> None:
        stream: TextIO = self._outside
        stream.write(text)
        stream.flush()


def _known(line: Line) -> tuple[str, str, str]:
    """Logger, level and event."""
    if isinstance(line, dict):
        return tuple(str(line.get(name, "")) for name in ("logger", "level", "event"))  # type: ignore[return-value]
    return line.name, line.levelname.lower(), ""


def _is_wrong_setting(line: Line) -> bool:
    """Its reason says all."""
    return isinstance(line, dict) and line.get("code") == ConfigError.exit_code


def _is_covered(event: str) -> bool:
    return event in _COVERED or event.startswith(_STILL)
