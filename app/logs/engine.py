"""The log of the engine's processes: the same form, the same stdout and the same file.

SGLang configures logging in each of its processes from a dictConfig file. `engine_config` is what
that file holds; it names `process_handler` by its path. The last error of an engine process goes
into a note, too, which explains a failed start.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from app.logs import setup
from app.logs.form import Form, Style, style_of
from app.logs.writer import WatchedFile
from app.settings.catalogue import Settings


def engine_config(settings: Settings, note: Path) -> dict[str, Any]:
    """A dictConfig for the engine's processes; `note` receives their errors."""
    handler = {
        "()": f"{__name__}.{process_handler.__name__}",
        "style": style_of(settings.log_format),
        "file": settings.log_file if setup.file_is_writable(settings) else "",
        "note": str(note),
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"ours": handler},
        "root": {"level": settings.log_level.upper(), "handlers": ["ours"]},
    }


def process_handler(style: Style, file: str, note: str) -> logging.Handler:
    """The handler for the calling process.

    SGLang applies the dictConfig in the serving process, too, which goes on logging as it does.
    """
    return setup.queue_handler() or _EngineHandler(style, file, note)


class _EngineHandler(logging.Handler):
    """Writes at once, to stdout, to the common file, and errors to the note."""

    def __init__(self, style: Style, file: str, note: str) -> None:
        super().__init__()
        stdout = logging.StreamHandler(sys.stdout)
        stdout.setFormatter(Form(style))
        self._targets: list[logging.Handler] = [stdout]
        if file:
            # Watched: the serving process rotates the file under this one.
            watched = WatchedFile(file, delay=True)
            watched.setFormatter(Form(style, colors=False))
            self._targets.append(watched)
        errors = logging.FileHandler(note, delay=True)
        errors.setLevel(logging.ERROR)
        self._targets.append(errors)

    def emit(self, record: logging.LogRecord) -> None:
        for target in self._targets:
            if record.levelno >= target.level:
                target.handle(record)
