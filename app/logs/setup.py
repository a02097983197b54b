"""Logging: `log` for our own lines, and one way for them and the records of uvicorn and SGLang.

    our code ──────── structlog ─ dict ────┐
    uvicorn, SGLang ─ stdlib ──── record ──┴─ bounded queue ─ thread (writer.py) ─ stdout, file

What only the caller's task knows, such as the request's id, is added here; form.py renders the
line, in the writer's thread. The engine's processes log by engine.py.
"""

from __future__ import annotations

import contextvars
import copy
import logging
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from app.errors import ConfigError
from app.logs.form import NAME, Form, style_of, timestamp
from app.logs.writer import File, Stdout, Target, Writer, private
from app.settings.catalogue import DECLARATIONS, Settings

_FLUSH_TIMEOUT_S = 1.5

log: FilteringBoundLogger = structlog.get_logger(NAME)

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)

_writer: Writer | None = None
"""This process's, from `configure` to `flush`."""


def configure(settings: Settings, *, rotates: bool = True, process: int | None = None) -> None:
    """Set up this process's logging. Called once, before anything logs.

    `rotates`: of the processes that write the log file, this one moves it aside when it is full.
    `process`: the number of this serving process, if there are several; every line shows it.
    """
    global _writer
    # Our lines show none of these, and each costs every record; the first walks up the stack.
    logging._srcfile = None  # as the logging HOWTO has it
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    _writer = writer = Writer(_targets(settings, rotates, process))
    writer.start()
    root = logging.getLogger()
    root.handlers[:] = [_QueueHandler(writer)]
    root.setLevel(settings.log_level.upper())
    _quieten(settings)
    # Two lines a request: one function makes a line complete, and no stdlib record is made of it.
    structlog.configure(
        processors=[_Completed(process)],
        logger_factory=lambda *_: _Lines(writer),
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        cache_logger_on_first_use=True,
    )


def flush() -> None:
    """Write what is queued; logging ends here."""
    global _writer
    writer, _writer = _writer, None
    if writer is None:
        return

    def finish() -> None:
        with suppress(Exception):  # the log's reader has gone, the disk is full: nothing to report
            writer.stop()
            sys.stdout.flush()

    # In a daemon thread: a log reader that does not read must not keep this process.
    finishing = threading.Thread(target=finish, daemon=True)
    finishing.start()
    finishing.join(_FLUSH_TIMEOUT_S)


def dropped() -> int:
    """Lines that were lost because the log's reader did not keep up."""
    return 0 if _writer is None else _writer.lost


def file_is_writable(settings: Settings) -> bool:
    """False for no file, and for the default one in a folder that cannot be written.

    Raises ConfigError for one that the operator named and that cannot be written.
    """
    if not settings.log_file:
        return False
    try:
        with open(settings.log_file, "a", opener=private):
            return True
    except OSError as error:
        if settings.log_file != DECLARATIONS["log_file"].default:
            raise ConfigError(
                f"LOG_FILE: cannot write {settings.log_file}: {error.strerror}"
            ) from None
        return False


def queue_handler() -> logging.Handler | None:
    """A handler that hands records to this process's writer; None if there is no writer."""
    return None if _writer is None else _QueueHandler(_writer)


def _targets(settings: Settings, rotates: bool, process: int | None) -> list[Target]:
    style = style_of(settings.log_format)
    form = Form(style, process=process)
    targets: list[Target] = [Stdout(form)]
    if file_is_writable(settings):
        # JSON is rendered once for both; a console's colours are not for the file.
        plain = form if style == "json" else Form(style, colors=False, process=process)
        targets.append(File(plain, settings.log_file, rotates=rotates))
    return targets


class _Completed:
    """structlog's one processor: what each of our lines has beside its own facts."""

    def __init__(self, process: int | None) -> None:
        self._process = process

    def __call__(self, logger: WrappedLogger, level: str, event: EventDict) -> EventDict:
        event["logger"], event["level"] = NAME, level
        if (id := request_id.get()) is not None:
            event.setdefault("request_id", id)
        event["timestamp"] = timestamp(datetime.now(UTC))
        if "exc_info" in event:
            event = structlog.processors.format_exc_info(logger, level, event)
        if self._process is not None:
            event["process"] = self._process
        return event


class _Lines:
    """What structlog takes for a logger: hands our own lines, complete, to the writer."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def info(self, **line: Any) -> None:
        self._writer.put(line)

    debug = warning = error = critical = info


class _QueueHandler(logging.Handler):
    """Hands the records of libraries to the writer."""

    def __init__(self, writer: Writer) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            # The request's id is in this task's context, which the writer's thread does not see.
            record = copy.copy(record)
            record.msg, record.args = record.getMessage(), None
            record.request_id = request_id.get()
        except Exception:  # as logging's own handlers do: a library's line with wrong arguments
            self.handleError(record)
        else:
            self._writer.put(record)


def _quieten(settings: Settings) -> None:
    http = (settings.log_level_http or settings.log_level).upper()
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).setLevel(http)
    # Our own end line says more than uvicorn's access line, once.
    logging.getLogger("uvicorn.access").disabled = True
    for name in ("httpx", "httpcore", "asyncio", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
