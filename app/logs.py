"""Logging: structlog in front, one form for our lines, uvicorn's and SGLang's, a writer that never
blocks the event loop.

    our code ─ structlog ─┐
    uvicorn, SGLang ──────┴─ stdlib record ─ bounded queue ─ thread ─ stdout, rotating file

The engine's processes are told by a dictConfig file (`engine_config`) to log the same way; they
write to the same stdout and the same file, and their last error to a note that explains a failed
start.
"""

from __future__ import annotations

import contextvars
import copy
import json
import logging
import logging.handlers
import queue
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import orjson
import structlog
from structlog.typing import EventDict, WrappedLogger

from app.errors import ConfigError
from app.settings import Settings

_QUEUE_SIZE = 10_000
_FLUSH_TIMEOUT_S = 1.5
_FILE_BYTES, _FILES_KEPT = 10_000_000, 5

log = structlog.stdlib.get_logger("serve_hathora")

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)

_listener: logging.handlers.QueueListener | None = None
_process: int | None = None


def configure(settings: Settings, *, rotates: bool = True, process: int | None = None) -> None:
    """Set up this process's logging. Called once, before anything logs.

    `rotates`: this one of the processes that write the log file moves it aside when it is full.
    `process`: the number of this one, of several that serve; every line has it.
    """
    global _process
    _process = process
    global _listener
    style = _style(settings.log_format)
    handlers: list[logging.Handler] = [_formatted(logging.StreamHandler(sys.stdout), style)]
    if file_is_writable(settings):
        file: logging.Handler = (
            logging.handlers.RotatingFileHandler(
                settings.log_file, maxBytes=_FILE_BYTES, backupCount=_FILES_KEPT, delay=True
            )
            if rotates
            else logging.handlers.WatchedFileHandler(settings.log_file, delay=True)
        )
        handlers.append(_formatted(file, "console" if style == "console" else "json", colors=False))
    records: queue.Queue[logging.LogRecord] = queue.Queue(_QUEUE_SIZE)
    _listener = logging.handlers.QueueListener(records, *handlers)
    _listener.start()
    root = logging.getLogger()
    root.handlers[:] = [_QueueHandler(records)]
    root.setLevel(settings.log_level.upper())
    _quieten(settings)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.add_log_level,
            _add_request_id,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def file_is_writable(settings: Settings) -> bool:
    """False for no file, and for the default one in a folder that cannot be written.

    Raises ConfigError for one that was asked for and cannot be.
    """
    if not settings.log_file:
        return False
    try:
        with Path(settings.log_file).open("a"):
            return True
    except OSError as error:
        if settings.log_file != type(settings).model_fields["log_file"].default:
            raise ConfigError(
                f"LOG_FILE: cannot write {settings.log_file}: {error.strerror}"
            ) from None
        return False


def flush() -> None:
    """Write what is queued; logging ends here."""
    global _listener
    listener, _listener = _listener, None
    if listener is None:
        return

    def finish() -> None:
        with suppress(Exception):  # the reader has gone, the disk is full: there is no more to say
            listener.stop()
            sys.stdout.flush()

    # In a thread that nobody waits for long: a reader that does not read must not keep us here.
    finishing = threading.Thread(target=finish, daemon=True)
    finishing.start()
    finishing.join(_FLUSH_TIMEOUT_S)


def dropped() -> int:
    """Lines that were lost because the log's reader did not keep up."""
    return _QueueHandler.lost


def engine_config(settings: Settings, note: Path) -> dict[str, Any]:
    """A dictConfig for the engine's processes; `note` receives their errors.

    SGLang applies it in this process too, so the handlers are made by functions that know where
    they are.
    """
    file = settings.log_file if file_is_writable(settings) else ""
    about = {"style": _style(settings.log_format), "file": file, "note": str(note)}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"ours": {"()": "app.logs.process_handler", **about}},
        "root": {"level": settings.log_level.upper(), "handlers": ["ours"]},
    }


def process_handler(style: Literal["console", "json"], file: str, note: str) -> logging.Handler:
    """The handler for whichever process asks: the serving one, or one of the engine's."""
    if _listener is not None:
        assert isinstance(_listener.queue, queue.Queue)
        return _QueueHandler(_listener.queue)
    return _ChildHandler(style, file, note)


class _QueueHandler(logging.handlers.QueueHandler):
    """Hands records to the writer thread; a full queue costs lines, never the event loop's time."""

    lost = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        # The request's id lives in this task's context, which the writer thread does not see.
        record = copy.copy(record)
        if not isinstance(record.msg, dict):
            record.msg, record.args = record.getMessage(), None
            record.request_id = request_id.get()
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            _QueueHandler.lost += 1


class _ChildHandler(logging.Handler):
    """Logs from an engine process: stdout, the common file, and the note of its last errors."""

    def __init__(self, style: Literal["console", "json"], file: str, note: str) -> None:
        super().__init__()
        self._targets: list[logging.Handler] = [
            _formatted(logging.StreamHandler(sys.stdout), style)
        ]
        if file:
            # Watched: the serving process rotates the file under us.
            watched = logging.handlers.WatchedFileHandler(file, delay=True)
            self._targets.append(_formatted(watched, style, colors=False))
        errors = logging.FileHandler(note, delay=True)
        errors.setLevel(logging.ERROR)
        self._targets.append(errors)

    def emit(self, record: logging.LogRecord) -> None:
        for target in self._targets:
            if record.levelno >= target.level:
                target.handle(record)


def _style(asked: Literal["auto", "console", "json"]) -> Literal["console", "json"]:
    if asked != "auto":
        return asked
    return "console" if sys.stdout.isatty() else "json"


def _formatted(
    handler: logging.Handler, style: Literal["console", "json"], *, colors: bool | None = None
) -> logging.Handler:
    if style == "json":
        render: Any = structlog.processors.JSONRenderer(serializer=_dumps)
    else:
        render = structlog.dev.ConsoleRenderer(
            colors=sys.stdout.isatty() if colors is None else colors,
            exception_formatter=structlog.dev.plain_traceback,
        )
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_logger_name,
                structlog.stdlib.add_log_level,
                _take_from_record,
                structlog.processors.format_exc_info,
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    return handler


def _dumps(event: Any, **_: Any) -> str:
    try:
        return orjson.dumps(event, default=repr).decode()
    except orjson.JSONEncodeError:  # a lone surrogate, an integer past 64 bits
        return json.dumps(event, default=repr)


def _add_request_id(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    if (rid := request_id.get()) is not None:
        event.setdefault("request_id", rid)
    return _add_process(event)


def _add_process(event: EventDict) -> EventDict:
    if _process is not None:
        event["process"] = _process
    return event


def _take_from_record(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """What the record knew when it was made, in the form of our own lines."""
    record: logging.LogRecord = event["_record"]
    made = datetime.fromtimestamp(record.created, UTC)
    event["timestamp"] = made.isoformat(timespec="microseconds").replace("+00:00", "Z")
    if (rid := getattr(record, "request_id", None)) is not None:
        event["request_id"] = rid
    return _add_process(event)


def _quieten(settings: Settings) -> None:
    http = (settings.log_level_http or settings.log_level).upper()
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).setLevel(http)
    # Our own end line says more than uvicorn's access line, once.
    logging.getLogger("uvicorn.access").disabled = True
    for name in ("httpx", "httpcore", "asyncio", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
