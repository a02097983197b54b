"""uvicorn's HTTP connection, with the bounds that it and its parser lack.

    head   bytes, fields, and the time it may take        431, 408
    body   pieces (chunks) it may come in                 413
    pipe   requests sent ahead of their answers           no more are read

    last answer, more to come    half closed, read on for a while: a reset would take it along
    Connection: Upgrade          refused in silence, as HTTP has it; the body is read
    client lost                  whoever makes the answer is told, large as its body may have been

Written against uvicorn 0.54 (protocols/http/httptools_impl.py), which has no bound on any of these
and answers what is not HTTP in plain text, and httptools 0.9. tests/web/test_bounds.py checks that
what is overridden and used here still exists.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from app import metrics
from app.dialects.openai.errors import error_json
from app.errors import BodyTooLarge, HeadersTooLarge, HeadTimeout, InvalidRequest, ServeError
from app.logs.setup import log
from app.settings.catalogue import Settings

_MAX_PIECES = 65_536
_MAX_PIPELINED = 64
_NOT_COUNTED = 64
"""Method, version and the empty line, which are of a head that is not complete, but not counted."""
_LINGER_S = 2.0
"""How long a client that was refused may take to read why, once the answer has left. A socket
closed with unread data in it takes the answer along."""


class _AnswerTransport:
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
    write_timeout_s: ClassVar[float]

    _reading: Literal["nothing", "head", "body"] = "nothing"
    _deadline: asyncio.TimerHandle | None = None
    _refused = False
    _fields = 0
    _head_bytes = 0
    """The request line and the fields that are complete; after the head, the trailers."""
    _running: RequestResponseCycle | None = None
    """Whose answer is made, or was the last; `cycle` is the newest, which may still wait."""
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
        self._way = _AnswerTransport(transport, self._close)
        self._await_the_rest()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._held_bytes += len(data)
        self._unset_keepalive_if_required()
        self._parse(data)
        if self._refused:
            return
        if self._head_bytes + self._held_bytes > self.max_header_bytes + _NOT_COUNTED:
            self._refuse(self._too_large())
        elif self._deadline is None and not self._answering:
            self._await_the_rest()

    def _parse(self, data: bytes) -> None:
        try:
            while data:
                data = self._feed(data)
        except httptools.HttpParserError as error:
            given = error.__context__  # what a callback raised
            self._refuse(given if isinstance(given, ServeError) else _not_http())

    def _feed(self, data: bytes) -> bytes:
        """Calls the callbacks below; returns what is left. Raises HttpParserError."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            at: int = upgrade.args[0]
        else:
            return b""
        if self._has_body():
            self._read_body_after_all()
        return data[at:]

    def _should_upgrade(self) -> bool:
        return False

    def _has_body(self) -> bool:
        return any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers)

    def _read_body_after_all(self) -> None:
        """httptools takes what follows a head with `Connection: Upgrade` for another protocol, and
        some clients offer one with each request (Java's: h2c). Another parser, which is told of a
        head with the same body, reads on."""
        begun = False

        def once_begun(callback: Callable[..., None]) -> Callable[..., None]:
            return lambda *args: callback(*args) if begun else None

        callbacks = SimpleNamespace(
            **{
                name: once_begun(getattr(self, name))
                for name in (
                    "on_message_begin", "on_url", "on_header", "on_headers_complete", "on_body",
                )
            },
            on_message_complete=self.on_message_complete,  # at once, if the body is of length 0
        )  # fmt: skip
        self.parser = httptools.HttpRequestParser(callbacks)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        framing = [
            b"%b: %b\r\n" % header
            for header in self.headers
            if header[0] in (b"content-length", b"transfer-encoding")
        ]
        if not self.cycle.keep_alive:
            framing.append(b"connection: close\r\n")  # nothing behind it is a request
        self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(framing))
        begun = True

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)
        self._tell_lost()
        self._unset_keepalive_if_required()
        # These lead back here, and what is gone is not to wait for a collection.
        self.pipeline.clear()
        self._running = None
        del self.cycle, self.scope, self._way

    def _tell_lost(self) -> None:
        on_lost, self.on_lost = self.on_lost, None
        if on_lost is not None:
            on_lost()

    # -- the parser's callbacks; what they raise ends in _refuse ---------------------------------

    def on_message_begin(self) -> None:
        self._stop_waiting()
        if len(self.pipeline) >= _MAX_PIPELINED:
            raise InvalidRequest(f"Over {_MAX_PIPELINED} requests are waiting.")
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
            raise BodyTooLarge(f"The request's body comes in over {_MAX_PIECES} pieces.")
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade() and self._has_body():
            return  # its body comes yet
        self._reading = "nothing"
        self._head_bytes = self._held_bytes = 0
        super().on_message_complete()
        if not self.pipeline:
            # A large body has stopped the reading; unless it goes on nobody hears the client leave.
            self.flow.resume_reading()

    def _count(self, size: int) -> None:
        self._held_bytes = max(0, self._held_bytes - size)
        self._head_bytes += size
        if self._head_bytes > self.max_header_bytes or self._fields > self.max_headers:
            raise self._too_large()

    def _too_large(self) -> ServeError:
        return HeadersTooLarge(
            f"The request's line and headers are over {self.max_header_bytes} bytes "
            f"(MAX_HEADER_BYTES) or over {self.max_headers} fields (MAX_HEADERS)."
        )

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

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def shutdown(self) -> None:
        if self._answering:
            super().shutdown()
        elif not self._refused:
            self._close()

    def cut_off(self) -> None:
        """Of a client that does not read: what it was sent is not kept for it any longer."""
        self.transport.abort()

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
            if self._reading == "body" and self.pipeline:
                self.pipeline.popleft()  # nothing of it will be made
                self._newest().keep_alive = False
                return
            if self._reading != "body" or self.cycle.response_started:
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

    def _newest(self) -> RequestResponseCycle:
        assert self._running is not None
        return self.pipeline[0][0] if self.pipeline else self._running

    def _close(self) -> None:
        """After an answer that is the last."""
        more = self._reading != "nothing" or self._refused
        if not more or self.transport.is_closing():
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
        self._wait_for_the_end(self.loop.time() + self.write_timeout_s)

    def _wait_for_the_end(self, latest: float) -> None:
        has_left = not self.transport.get_write_buffer_size()

        def over() -> None:
            if has_left or self.loop.time() >= latest:
                self.transport.abort()
            else:
                self._wait_for_the_end(latest)

        self._deadline = self.loop.call_later(_LINGER_S, over)

    def timeout_keep_alive_handler(self) -> None:
        if not self._refused:
            super().timeout_keep_alive_handler()


def bounded(settings: Settings) -> type[BoundedHttp]:
    """What uvicorn makes its connections from: a class, so the bounds are the class's."""

    class Configured(BoundedHttp):
        max_header_bytes = settings.max_header_bytes
        max_headers = settings.max_headers
        header_timeout_s = settings.header_timeout_s
        write_timeout_s = settings.write_timeout_s

    return Configured


def _not_http() -> InvalidRequest:
    return InvalidRequest("This is not a valid HTTP request.", code="invalid_http_request")


def _answer(error: ServeError, headers: list[tuple[bytes, bytes]]) -> bytes:
    body = orjson.dumps(error_json(error))
    own = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    lines = b"".join([b"%b: %b\r\n" % field for field in (*headers, *own)])
    return STATUS_LINE[error.status] + lines + b"\r\n" + body
