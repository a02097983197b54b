"""Logging: structlog in front, one form for our lines, uvicorn's and SGLang's, a writer that never
blocks the event loop.

    our code ──────── structlog ─ line ────┐
    uvicorn, SGLang ─ stdlib ──── record ──┴─ bounded queue ─ thread ─ stdout, rotating file

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
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from app.errors import ConfigError
from app.settings.catalogue import Settings

_QUEUE_SIZE = 10_000
_BATCH = 500
_GATHER_S = 0.05
_FLUSH_TIMEOUT_S = 1.5
_FILE_BYTES, _FILES_KEPT = 10_000_000, 5

_NAME = "serve_hathora"
log: FilteringBoundLogger = structlog.get_logger(_NAME)

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)

_writer: _Writer | None = None
_process: int | None = None


def configure(settings: Settings, *, rotates: bool = True, process: int | None = None) -> None:
    """Set up this process's logging. Called once, before anything logs.

    `rotates`: this one of the processes that write the log file moves it aside when it is full.
    `process`: the number of this one, of several that serve; every line has it.
    """
    global _process, _writer
    _process = process
    # Nothing that our lines show; each costs every record, the first of them a walk up the stack.
    logging._srcfile = None  # as the logging HOWTO has it
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    style = _style(settings.log_format)
    targets: list[_Target] = [_Stdout(_formatter(style))]
    if file_is_writable(settings):
        # JSON is formatted once for both.
        plain = targets[0].formatter if style == "json" else _formatter(style, colors=False)
        targets.append(_File(plain, settings.log_file, rotates=rotates))
    _writer = writer = _Writer(targets)
    writer.start()
    root = logging.getLogger()
    root.handlers[:] = [_QueueHandler(writer)]
    root.setLevel(settings.log_level.upper())
    _quieten(settings)
    # Two lines a request: one function makes a line complete, and no stdlib record is made of it.
    structlog.configure(
        processors=[_complete],
        logger_factory=lambda *_: _Lines(writer),
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
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
    global _writer
    listener, _writer = _writer, None
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
    return _Writer.lost


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
        "handlers": {"ours": {"()": "app.logs.setup.process_handler", **about}},
        "root": {"level": settings.log_level.upper(), "handlers": ["ours"]},
    }


def process_handler(style: Literal["console", "json"], file: str, note: str) -> logging.Handler:
    """The handler for whichever process asks: the serving one, or one of the engine's."""
    if _writer is not None:
        return _QueueHandler(_writer)
    return _ChildHandler(style, file, note)


class _Lines:
    """Our own lines, complete, on their way to the writer: what structlog takes for a logger."""

    def __init__(self, writer: _Writer) -> None:
        self._writer = writer

    def info(self, **line: Any) -> None:
        self._writer.put(line)

    debug = warning = error = critical = info


class _QueueHandler(logging.Handler):
    """Others' records on their way to the writer."""

    def __init__(self, writer: _Writer) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            # The request's id lives in this task's context, which the writer thread does not see.
            record = copy.copy(record)
            record.msg, record.args = record.getMessage(), None
            record.request_id = request_id.get()
        except Exception:  # as logging's own: a library's line with wrong arguments
            self.handleError(record)
        else:
            self._writer.put(record)


_Line: TypeAlias = logging.LogRecord | dict[str, Any]


class _Target:
    """Where lines go. Whoever stops reading, or a full disk, costs lines and nothing else."""

    def __init__(self, formatter: _Formatter) -> None:
        self.formatter = formatter

    def write(self, lines: str) -> None:
        raise NotImplementedError


class _Stdout(_Target):
    def write(self, lines: str) -> None:
        sys.stdout.write(lines)
        sys.stdout.flush()


class _File(_Target):
    """Rotated at 10 MB, by one of the processes that write to it; the others follow."""

    def __init__(self, formatter: _Formatter, path: str, *, rotates: bool) -> None:
        super().__init__(formatter)
        self._rotates = rotates
        self._handler: Any = (
            logging.handlers.RotatingFileHandler(path, backupCount=_FILES_KEPT, delay=True)
            if rotates
            else logging.handlers.WatchedFileHandler(path, delay=True)
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


class _Writer(threading.Thread):
    """Writes what has gathered in one go, each line formatted once for all who want it so.

    It sleeps between two batches. Woken by each line it would take the interpreter from the event
    loop each time, which costs a request as much as its template. A full queue costs lines, never
    the event loop's time.
    """

    lost = 0

    def __init__(self, targets: Sequence[_Target]) -> None:
        super().__init__(name="log", daemon=True)
        self._targets = targets
        self._records: deque[_Line] = deque()
        self._work = threading.Event()
        self._idle = False
        self._stopping = False

    def put(self, record: _Line) -> None:
        if len(self._records) >= _QUEUE_SIZE:
            _Writer.lost += 1
            return
        self._records.append(record)
        if self._idle:
            self._idle = False
            self._work.set()

    def stop(self) -> None:
        """Write what is there, then end."""
        self._stopping = True
        self._work.set()
        self.join()

    def run(self) -> None:
        while not self._stopping:
            if self._records:
                self._drain()
                time.sleep(_GATHER_S)  # in its own thread: lines gather, and wake nobody
                continue
            self._work.clear()
            self._idle = True
            if not self._records and not self._stopping:  # nothing came since it looked
                self._work.wait()
            self._idle = False
        self._drain()

    def _drain(self) -> None:
        while self._records:
            records = [self._records.popleft() for _ in range(min(_BATCH, len(self._records)))]
            self._write(records)

    def _write(self, records: list[_Line]) -> None:
        formatted: dict[_Formatter, str] = {}
        for target in self._targets:
            if (form := target.formatter) not in formatted:
                formatted[form] = "".join([_text(form, each) for each in records])
            try:
                target.write(formatted[form])
            except (OSError, ValueError):  # its reader has gone, the disk is full, it is closed
                _Writer.lost += len(records)


def _text(formatter: _Formatter, record: _Line) -> str:
    try:
        if isinstance(record, dict):
            return formatter.own(record) + "\n"
        return formatter.format(record) + "\n"
    except Exception as error:  # some library's own record; the others are not to suffer
        name = _NAME if isinstance(record, dict) else record.name
        return f"{name}: a line that cannot be formatted: {error!r}\n"


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
    handler.setFormatter(_formatter(style, colors=colors))
    return handler


def _formatter(style: Literal["console", "json"], *, colors: bool | None = None) -> _Formatter:
    if style == "json":
        render: Any = structlog.processors.JSONRenderer(serializer=_dumps)
    else:
        render = structlog.dev.ConsoleRenderer(
            colors=sys.stdout.isatty() if colors is None else colors,
            exception_formatter=structlog.dev.plain_traceback,
        )
    return _Formatter(render)


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """One form for others' records and our own lines, which are complete as they come."""

    def __init__(self, render: Any) -> None:
        super().__init__(
            foreign_pre_chain=[
                structlog.stdlib.add_logger_name,
                structlog.stdlib.add_log_level,
                _take_from_record,
                structlog.processors.format_exc_info,
            ],
            processors=[self.remove_processors_meta, render],
        )
        self._render = render

    def own(self, line: dict[str, Any]) -> str:
        return str(self._render(None, line["level"], line.copy()))  # renderers take it apart


def _dumps(event: Any, **_: Any) -> str:
    try:
        return orjson.dumps(event, default=repr).decode()
    except orjson.JSONEncodeError:  # a lone surrogate, an integer past 64 bits
        return json.dumps(event, default=repr)


def _complete(logger: WrappedLogger, level: str, event: EventDict) -> EventDict:
    event["logger"], event["level"] = _NAME, level
    if (rid := request_id.get()) is not None:
        event.setdefault("request_id", rid)
    event["timestamp"] = _iso(datetime.now(UTC))
    if "exc_info" in event:
        event = structlog.processors.format_exc_info(logger, level, event)
    return _add_process(event)


def _add_process(event: EventDict) -> EventDict:
    if _process is not None:
        event["process"] = _process
    return event


def _take_from_record(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """What the record knew when it was made, in the form of our own lines."""
    record: logging.LogRecord = event["_record"]
    event["timestamp"] = _iso(datetime.fromtimestamp(record.created, UTC))
    if (rid := getattr(record, "request_id", None)) is not None:
        event["request_id"] = rid
    return _add_process(event)


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _quieten(settings: Settings) -> None:
    http = (settings.log_level_http or settings.log_level).upper()
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).setLevel(http)
    # Our own end line says more than uvicorn's access line, once.
    logging.getLogger("uvicorn.access").disabled = True
    for name in ("httpx", "httpcore", "asyncio", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
