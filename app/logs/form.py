"""The form of a line: the same for our own lines and for the records of libraries.

Three styles: `json`, `console` (console.py) and `text` (text.py). Our own lines come complete, as
dicts (setup.py); a library's record is given here what our lines have.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import orjson
import structlog
from structlog.typing import EventDict, WrappedLogger

from app.logs.console import Console
from app.logs.text import document_line

NAME = "serve_hathora"
"""The logger of our own lines."""

Line: TypeAlias = logging.LogRecord | dict[str, Any]
"""A library's record, or a line of our own."""
Style: TypeAlias = Literal["console", "json", "text"]


def style_of(log_format: Literal["auto", "console", "json", "text"]) -> Style:
    if log_format != "auto":
        return log_format
    return "console" if sys.stdout.isatty() else "json"


class Form(structlog.stdlib.ProcessorFormatter):
    """Renders lines in one style. `colors`: of the console's."""

    def __init__(self, style: Style, *, colors: bool = False, process: int | None = None) -> None:
        self._render = _renderer(style, colors)
        self._process = process
        super().__init__(
            foreign_pre_chain=[
                structlog.stdlib.add_logger_name,
                structlog.stdlib.add_log_level,
                self._take_from_record,
                structlog.processors.format_exc_info,
            ],
            processors=[self.remove_processors_meta, self._render],
        )

    def text(self, line: Line) -> str:
        """The line and its end. Never raises: one bad line must not lose the batch."""
        try:
            if isinstance(line, dict):
                # A copy: renderers take the dict apart, and it may be rendered in two styles.
                return f"{self._render(None, line['level'], line.copy())}\n"
            return self.format(line) + "\n"
        except Exception as error:
            name = NAME if isinstance(line, dict) else line.name
            return f"{name}: a line that cannot be formatted: {error!r}\n"

    def _take_from_record(self, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
        """The facts that every line has, from what the record knew when it was made."""
        record: logging.LogRecord = event["_record"]
        event["timestamp"] = timestamp(datetime.fromtimestamp(record.created, UTC))
        if (id := getattr(record, "request_id", None)) is not None:
            event["request_id"] = id
        if (trace := getattr(record, "trace_id", None)) is not None:
            event["trace_id"] = trace
        if self._process is not None:
            event["process"] = self._process
        return event


def timestamp(moment: datetime) -> str:
    """Of a moment in UTC."""
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _renderer(style: Style, colors: bool) -> Any:
    if style == "json":
        return structlog.processors.JSONRenderer(serializer=_dumps)
    text = Console(colors=colors, own=NAME).text if style == "console" else document_line
    return lambda logger, method, event: text(_printable(event))


_OF_SEVERAL_LINES = ("event", "exception", "stack")
"""Fields that may have line breaks: what they say is the program's or a library's."""
_INDENT = " " * 4
"""Of the further lines of a library's text, and of all lines of a traceback, whose last ones are a
library's: what a client sent must not pass for a line."""


def _printable(event: EventDict) -> EventDict:
    """Escape control characters, which a terminal would obey: a client chooses its path."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            kept = "\n\t" if name in _OF_SEVERAL_LINES else ""
            text = "".join([c if c.isprintable() or c in kept else _escaped(c) for c in value])
            is_foreign = name == "event" and event.get("logger", NAME) != NAME
            event[name] = text.replace("\n", f"\n{_INDENT}") if is_foreign else text
    for name in ("exception", "stack"):
        if name in event:
            event[name] = _INDENT + str(event[name]).replace("\n", f"\n{_INDENT}")
    return event


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _dumps(event: Any, **_: Any) -> str:
    try:
        return orjson.dumps(event, default=repr).decode()
    except orjson.JSONEncodeError:  # a lone surrogate, an integer past 64 bits
        return json.dumps(event, default=repr)
