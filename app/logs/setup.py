"""Logging: `log` for our own lines, and one way for them and the records of uvicorn and SGLang.

    our code ──────────── structlog ─ dict ────┐
    uvicorn, SGLang ───── stdlib ──── record ──┼─ bounded queue ─ thread (writer.py) ─ stdout, file
    engine's processes ── pipe ────── dict ────┘

What only the caller's task knows, such as the request's id, is added here; form.py renders the
line, in the writer's thread. Only this thread writes outside: what child processes write comes
through a pipe (capture.py, and engine.py in the engine's processes).
"""

from __future__ import annotations

import atexit
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
from app.logs.capture import Capture
from app.logs.form import NAME, Form, style_of, timestamp
from app.logs.noise import demote
from app.logs.terminal import HoldingForm, Source, Terminal
from app.logs.writer import File, Stdout, Writer, private
from app.settings.catalogue import DECLARATIONS, Settings

_FLUSH_TIMEOUT_S = 1.5

log: FilteringBoundLogger = structlog.get_logger(NAME)

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)
trace_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("trace_id", default=None)
_shows_traces = False

_writer: Writer | None = None
"""This process's, from `configure` to `flush`."""
_terminal: Terminal | None = None
"""Of this writer's targets: None if stdout is none, or its lines are not for people."""
_complete: _Completed | None = None
_capture: Capture | None = None


def configure(
    settings: Settings,
    *,
    rotates: bool = True,
    process: int | None = None,
    captures: bool = False,
) -> None:
    """Set up this process's logging. Called once, before anything logs.

    `rotates`: of the processes that write the log file, this one moves it aside when it is full.
    `process`: the number of this serving process, if there are several; every line shows it.
    `captures`: what this process and its children write to stdout and stderr becomes log lines.
    """
    global _writer, _terminal, _complete, _capture
    # Our lines show none of these, and each costs every record; the first walks up the stack.
    logging._srcfile = None  # as the logging HOWTO has it
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    stdout, *files = _targets(settings, rotates, process)
    _terminal = stdout if isinstance(stdout, Terminal) else None
    _writer = writer = Writer([stdout, *files], _terminal)
    if captures:
        _capture = Capture(writer.put_of_child)
        _capture.start()
        stdout.stream = _capture.stdout
        atexit.register(flush)
    writer.start()
    root = logging.getLogger()
    root.setLevel(settings.log_level.upper())
    root.handlers[:] = [_QueueHandler(writer)]
    _quieten(settings)
    # Two lines a request: one function makes a line complete, and no stdlib record is made of it.
    _complete = _Completed(process)
    structlog.configure(
        processors=[_complete],
        logger_factory=lambda *_: _Lines(writer),
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        cache_logger_on_first_use=True,
    )


def announce(event: str, **fields: Any) -> None:
    """Log what is said whatever LOG_LEVEL is: that the server is ready, and where."""
    if _writer is not None and _complete is not None:
        _writer.put(dict(_complete(None, "info", {"event": event, **fields})))


def show_progress(source: Source) -> None:
    """On a terminal, show below the lines how far the start is, until `source` returns None."""
    if _terminal is not None and _writer is not None:
        _terminal.show(source)
        _writer.wake()


def unfinished_line_of_child() -> bytes:
    """What a child process has written of a line that has no end yet: a progress bar, mostly."""
    return b"" if _capture is None else _capture.unfinished


def show_traces() -> None:
    """From now on lines have the `trace_id` of the request that they are of."""
    global _shows_traces
    _shows_traces = True


def flush() -> None:
    """Write what is queued; logging ends here, and stdout and stderr are what they were."""
    global _writer
    writer, _writer = _writer, None
    capture = _capture
    if writer is None:
        return

    def finish() -> None:
        with suppress(Exception):  # the log's reader has gone, the disk is full: nothing to report
            if capture is not None:
                capture.finish()
            writer.stop()
            sys.stdout.flush()
            if capture is not None:
                capture.release()

    # In a daemon thread: a log reader that does not read must not keep this process.
    finishing = threading.Thread(target=finish, daemon=True)
    finishing.start()
    finishing.join(_FLUSH_TIMEOUT_S)


def dropped() -> int:
    """Lines that were lost because the log's reader did not keep up."""
    lost = 0 if _writer is None else _writer.lost
    return lost if _capture is None else lost + _capture.lost


def catch_up() -> None:
    """Queue what child processes have written so far, so that it is above the next line here."""
    if _capture is not None:
        _capture.catch_up()


def last_error_of_child() -> str | None:
    """The last line of the last error that a child process wrote: of a traceback, the cause."""
    return None if _capture is None else _capture.last_error


def outside() -> tuple[int | None, int | None]:
    """stdout and stderr for a child process that has a log of its own; None: as they are here."""
    return (None, None) if _capture is None else _capture.outside


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


def _targets(
    settings: Settings, rotates: bool, process: int | None
) -> tuple[Stdout, *tuple[File, ...]]:
    style = style_of(settings.log_format)
    if style == "console":
        stdout = _for_people(settings, process)
    else:
        stdout = Stdout(Form(style, process=process))
    if not file_is_writable(settings):
        return (stdout,)
    # JSON is rendered once for both.
    json = stdout.form if style == "json" else Form("json", process=process)
    return stdout, File(json, settings.log_file, rotates=rotates)


def _for_people(settings: Settings, process: int | None) -> Stdout:
    from rich.console import Console  # which knows NO_COLOR, FORCE_COLOR and TERM

    seen = Console(file=sys.stdout)
    colors = seen.color_system is not None and not seen.no_color
    form = Form("console", colors=colors, process=process)
    if not sys.stdout.isatty() or seen.is_dumb_terminal:
        return Stdout(form)
    unicode = sys.stdout.encoding.lower().startswith("utf")
    return Terminal(form if settings.log_level == "debug" else HoldingForm(form), unicode=unicode)


class _Completed:
    """structlog's one processor: what each of our lines has beside its own facts."""

    def __init__(self, process: int | None) -> None:
        self._process = process

    def __call__(self, logger: WrappedLogger, level: str, event: EventDict) -> EventDict:
        event["logger"], event["level"] = NAME, level
        if (id := request_id.get()) is not None:
            event.setdefault("request_id", id)
        if _shows_traces and (trace := trace_id.get()) is not None:
            event["trace_id"] = trace
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
        self._shows_debug = logging.getLogger().isEnabledFor(logging.DEBUG)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            # The request's id is in this task's context, which the writer's thread does not see.
            record = copy.copy(record)
            if demote(record) and not self._shows_debug:
                return
            record.msg, record.args = record.getMessage(), None
            record.request_id = request_id.get()
            if _shows_traces:
                record.trace_id = trace_id.get()
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
    # It warns of each form that a client has sent wrong, which is answered with 400.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
