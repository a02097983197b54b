"""uvicorn's HTTP connection, with the bounds that it and its parser lack.

    head   bytes, fields, and the time it may take        431, 408
    body   pieces (chunks) it may come in                 413
    pipe   requests sent ahead of their answers           no more are read

Written against uvicorn 0.54 (protocols/http/httptools_impl.py), which has no bound on any of these
and answers what is not HTTP in plain text. tests/web/test_bounds.py checks that what is overridden
and used here still exists.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ClassVar, Literal

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app import metrics
from app.dialects.fields import error_json
from app.errors import BodyTooLarge, HeadersTooLarge, HeadTimeout, InvalidRequest, ServeError
from app.logs import log
from app.settings import Settings

_MAX_PIECES = 65_536
_MAX_PIPELINED = 64
_NOT_COUNTED = 64
"""Method, version and the empty line, which are of a head that is not complete, but not counted."""
_LINGER_S = 2.0
"""How long a client that was refused may take to read why. A socket closed with unread data in it
takes the answer along."""


class _Way:
    """The transport as a request's answer has it: to close it waits for what is still coming."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close


class BoundedHttp(HttpToolsProtocol):
    """One connection.

    The deadline runs while the client owes us the rest of something and no answer is under way: a
    first byte after connecting, the rest of a head, the rest of a body that is already answered.
    It is one timer, and none is made for a head that arrives in one piece on an open connection.
    """

    max_header_bytes: ClassVar[int]
    max_headers: ClassVar[int]
    header_timeout_s: ClassVar[float]

    _reading: Literal["nothing", "head", "body"] = "nothing"
    _deadline: asyncio.TimerHandle | None = None
    _refused = False
    _error: ServeError | None = None
    _fields = 0
    _head_bytes = 0
    """The request line and the fields that are complete; after the head, the trailers."""
    on_lost: Callable[[], None] | None = None
    """Called once if the client leaves, or is refused, before its answer is complete. Whoever makes
    the answer sets it, and finds the connection as `scope["state"]["connection"]`."""
    _held_bytes = 0
    """Received and not given out by the parser: what it may be keeping for itself. Where a head
    begins inside of one read is not known; such a read is let pass."""
    _pieces = 0

    # -- bytes in ----------------------------------------------------------------------------

    def connection_made(  # type: ignore[override]  # as uvicorn has it
        self, transport: asyncio.Transport
    ) -> None:
        super().connection_made(transport)
        self._way = _Way(transport, self._close)
        self._await_the_rest()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._held_bytes += len(data)
        super().data_received(data)  # calls the callbacks below
        if self._refused:
            return
        if self._head_bytes + self._held_bytes > self.max_header_bytes + _NOT_COUNTED:
            self._refuse(self._too_large())
        elif self._deadline is None and not self._answering:
            self._await_the_rest()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)
        self._tell_lost()

    def _tell_lost(self) -> None:
        on_lost, self.on_lost = self.on_lost, None
        if on_lost is not None:
            on_lost()

    # -- the parser's callbacks; what they raise ends in send_400_response -----------------------

    def on_message_begin(self) -> None:
        self._stop_waiting()
        if len(self.pipeline) >= _MAX_PIPELINED:
            self._fail(InvalidRequest(f"Over {_MAX_PIPELINED} requests are waiting."))
        self._reading = "head"
        self._fields = self._head_bytes = self._pieces = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        self._count(len(name) + len(value) + 4)
        if self._reading == "head":  # else it is a trailer, which is nobody's to take for a header
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.cycle.transport = self._way  # type: ignore[assignment]  # all that a cycle uses of it
        self.scope["state"]["connection"] = self
        self._stop_waiting()
        self._reading = "body"
        self._fields = self._head_bytes = self._held_bytes = 0

    def on_body(self, body: bytes) -> None:
        self._held_bytes = 0
        self._pieces += 1
        if self._pieces > _MAX_PIECES:
            self._fail(BodyTooLarge(f"The request's body comes in over {_MAX_PIECES} pieces."))
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._reading = "nothing"
        self._head_bytes = self._held_bytes = 0
        super().on_message_complete()

    def _count(self, size: int) -> None:
        self._held_bytes = max(0, self._held_bytes - size)
        self._head_bytes += size
        if self._head_bytes > self.max_header_bytes or self._fields > self.max_headers:
            self._fail(self._too_large())

    def _too_large(self) -> ServeError:
        return HeadersTooLarge(
            f"The request's line and headers are over {self.max_header_bytes} bytes "
            f"(MAX_HEADER_BYTES) or over {self.max_headers} fields (MAX_HEADERS)."
        )

    def _fail(self, error: ServeError) -> None:
        self._error = error
        raise error

    def send_400_response(self, msg: str) -> None:
        error = InvalidRequest("This is not a valid HTTP request.", code="invalid_http_request")
        self._refuse(self._error or error)

    # -- the deadline ------------------------------------------------------------------------

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_the_rest(self) -> None:
        self._deadline = self.loop.call_later(self.header_timeout_s, self._too_late)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        if self._reading == "head":
            said = f"did not arrive within {self.header_timeout_s:g} s (HEADER_TIMEOUT)."
            self._refuse(HeadTimeout(f"The request's headers {said}"))
        else:
            self.transport.close()

    # -- the way out -------------------------------------------------------------------------

    def _refuse(self, error: ServeError) -> None:
        """Read no more of this connection; say why, unless that would break into an answer."""
        self._refused = True
        self._stop_waiting()
        if self.transport.is_closing():
            return
        metrics.REFUSED.labels(error.code or "").inc()
        client = self.client[0] if self.client else None
        log.info("connection refused", client=client, status=error.status, reason=error.message)
        if self._answering:
            if self._reading != "body" or self.cycle.response_started or self.pipeline:
                # The answers to what came before go first, and are the last.
                self.cycle.keep_alive = False
                return
            # To the application the client is lost; nothing of its own may follow the refusal.
            self.cycle.disconnected = True
            self.cycle.waiting_for_100_continue = False
            self.cycle.message_event.set()
            self._tell_lost()
        elif self._reading == "body":  # whose answer has already left
            self._linger()
            return
        self.transport.write(_answer(error, self.server_state.default_headers))
        self._linger()

    def _close(self) -> None:
        """After an answer that is the last."""
        if self._reading == "nothing" or self.transport.is_closing():
            self.transport.close()
        else:
            self._linger()

    def _linger(self) -> None:
        """Say no more, and throw away what comes, until the client has read why and leaves."""
        self._refused = True
        self._stop_waiting()
        self._unset_keepalive_if_required()
        self.pipeline.clear()
        self.transport.write_eof()
        self.flow.resume_reading()
        self._deadline = self.loop.call_later(_LINGER_S, self.transport.abort)


def bounded(settings: Settings) -> type[BoundedHttp]:
    """What uvicorn makes its connections from: a class, so the bounds are the class's."""

    class Configured(BoundedHttp):
        max_header_bytes = settings.max_header_bytes
        max_headers = settings.max_headers
        header_timeout_s = settings.header_timeout_s

    return Configured


def _answer(error: ServeError, headers: list[tuple[bytes, bytes]]) -> bytes:
    body = orjson.dumps(error_json(error))
    own = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    lines = b"".join([b"%b: %b\r\n" % field for field in (*headers, *own)])
    return STATUS_LINE[error.status] + lines + b"\r\n" + body
