"""uvicorn's HTTP connection, with the bounds that uvicorn and its parser lack.

    head       bytes and fields (web/head_budget.py), and the time it may take    431, 408
    body       the pieces (chunks, reads) it may come in                          413
    pipeline   requests sent before earlier ones are answered                     no more are read
    unread     the time that the client leaves answers unread                     cut off

An error that HTTP itself causes (400, 408, 413, 431) is answered in the API's form. Beyond that:

    last answer sent, client still sending    half close and read on for a while; see _LINGER_S
    Connection: Upgrade                       the offer is ignored; see web/upgrade.py
    client disconnects                        `on_lost` is called, even behind a large unread body
    TLS                                       has no half close: its own end (close_notify) instead,
                                              which many clients never answer; see _hasten_the_end
    a unix socket                             its client has no address, and is called `unix`

Written against uvicorn 0.54 (protocols/http/httptools_impl.py), which bounds none of these and
answers what is not HTTP in plain text, and httptools 0.9. tests/web/test_uvicorn_contract.py checks
that what is overridden and used here still exists.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import httptools
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from app import awake, metrics
from app.errors import ClientGone, HeadTimeout, InvalidRequest, ServeError
from app.logs.setup import log
from app.settings.catalogue import Settings
from app.web import upgrade
from app.web.deadline import Deadline
from app.web.head_budget import SEPARATORS, HeadBudget
from app.web.responses import rendered
from app.web.transports import UNIX_CLIENT, AnswerTransport, acknowledged, is_unix, unacknowledged

_MAX_PIECES = 65_536
_MAX_PIPELINED = 64
_READ_BYTES = 32_768
"""That a client has to read within WRITE_TIMEOUT while answers wait for it. An answer may be one
write of megabytes; a client that reads a byte now and then would hold its place for ever."""
_TLS_UNREAD_BYTES = 65_536
"""What an event loop keeps of answers before `pause_writing`; on TLS it would be half a megabyte
for each client that does not read."""
_LINGER_S = 2.0
"""How long the client may take to read the last answer, once it has left our buffer. Closing a
socket that holds unread data resets the connection, and the client loses the answer."""


def bounded(settings: Settings) -> type[BoundedHttp]:
    """uvicorn makes its connections from a class, so the settings are the class's."""

    return type("Configured", (BoundedHttp,), {"settings": settings})


class BoundedHttp(HttpToolsProtocol):
    """One connection.

    The deadline runs while the client owes the rest of something and no answer is being made: the
    first byte after connecting, the rest of a head, the rest of a body that is already answered.
    A head that arrives in one read on an open connection starts no timer.

    `cycle`, uvicorn's, is the newest request with its answer; it may still wait in `pipeline`.
    """

    settings: ClassVar[Settings]

    on_lost: Callable[[], None] | None = None
    """Called once if the client disconnects, or is refused, before its answer is complete. The
    application sets it, on the connection that it finds as `scope["state"]["connection"]`."""
    unread = False
    """It was cut off because the client did not read."""
    _reading: Literal["nothing", "head", "body"] = "nothing"
    _refused = False
    """Whatever else comes from the client is thrown away."""
    _running: RequestResponseCycle | None = None
    """The request whose answer is being made, or was made last."""

    # -- bytes in ----------------------------------------------------------------------------

    def connection_made(  # type: ignore[override]  # uvicorn's type for it
        self, transport: asyncio.Transport
    ) -> None:
        super().connection_made(transport)
        settings = self.settings
        self._tls = self.scheme == "https"
        if self._tls:
            transport.set_write_buffer_limits(high=_TLS_UNREAD_BYTES)
        if self.client is None and is_unix(transport):
            self.client = (UNIX_CLIENT, 0)
        self._budget = HeadBudget(
            max_bytes=settings.max_header_bytes,
            max_fields=settings.max_headers,
            max_pieces=_MAX_PIECES,
        )
        self._answer_transport = AnswerTransport(transport, self._close_after_answer)
        self._deadline, self._unread = Deadline(), Deadline()
        self._start_deadline()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._unset_keepalive_if_required()
        self._budget.receive(len(data))
        self._parse(data)
        if self._refused:
            return
        if self._budget.unparsed_bytes:
            try:
                self._budget.check_unparsed()
            except ServeError as error:
                self._refuse(error)
                return
        if self._deadline.timer is None and not self._answering:
            self._start_deadline()

    def _parse(self, data: bytes) -> None:
        """Calls the parser's callbacks below."""
        try:
            while data:
                try:
                    self.parser.feed_data(data)
                    return
                except httptools.HttpParserUpgrade as offer:
                    if upgrade.has_body(self.headers):
                        upgrade.replace_parser(self)
                    data = data[offer.args[0] :]
        except httptools.HttpParserError as error:
            raised = error.__context__  # by a callback
            self._refuse(raised if isinstance(raised, ServeError) else _not_http())

    def pause_writing(self) -> None:
        """The client has left so much unread that its answers wait."""
        super().pause_writing()
        self._watch_unread()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread.stop()

    async def sent(self) -> None:
        """Returns once the client has read all but some kilobytes of its answer, or is lost.

        Raises ClientGone if it did not read.
        """
        await self.flow.drain()
        if self.unread:
            raise ClientGone("The client does not read its answer.")

    def _watch_unread(self) -> None:
        before = self._read_so_far()

        def expired() -> None:
            if self._read_so_far() - before >= _READ_BYTES:
                self._watch_unread()
            else:
                self.unread = True
                self.cut_off()

        self._unread.start(self.settings.write_timeout_s, expired)

    def _read_so_far(self) -> int:
        """Grows as the client reads. On TLS the loop has a buffer that it does not tell of."""
        if self._tls:
            return acknowledged(self.transport)
        return -self.transport.get_write_buffer_size()

    def eof_received(self) -> None:
        """On TLS the client's close_notify: the loop sends what it has, for as long as that takes,
        and drops what is written from now on. Otherwise the loop closes the connection."""
        if self._tls and not self.transport.is_closing():
            self._report_lost()
            self._hasten_the_end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.stop()
        self._unread.stop()
        super().connection_lost(exc)
        self._report_lost()
        self._unset_keepalive_if_required()
        # Break the reference cycles, so that this is freed without a garbage collection.
        self.pipeline.clear()
        self._running = None
        del self.cycle, self.scope, self._answer_transport

    def _report_lost(self) -> None:
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        on_lost, self.on_lost = self.on_lost, None
        if on_lost is not None:
            on_lost()

    # -- the parser's callbacks; what they raise ends in _refuse ---------------------------------

    def on_message_begin(self) -> None:
        self._deadline.stop()
        if len(self.pipeline) >= _MAX_PIPELINED:
            raise InvalidRequest(f"Over {_MAX_PIPELINED} requests are waiting.")
        self._reading = "head"
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._budget.add(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._budget.add(len(name) + len(value) + SEPARATORS, fields=1)
        if self._reading == "head":  # a trailer must not be read as a header
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.cycle.transport = self._answer_transport  # type: ignore[assignment]  # all it uses
        self.scope["state"]["connection"] = self
        self._deadline.stop()
        self._reading = "body"
        self._budget.end_head()

    def _should_upgrade(self) -> bool:
        return False

    def on_body(self, body: bytes) -> None:
        self._budget.add_piece()
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade() and upgrade.has_body(self.headers):
            return  # the body has yet to come
        self._reading = "nothing"
        self._budget.end_message()
        super().on_message_complete()
        if not self.pipeline:
            # A large body has paused reading, and a disconnect is only noticed while reading.
            self.flow.resume_reading()

    # -- the deadline ------------------------------------------------------------------------

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _start_deadline(self) -> None:
        self._deadline.start(self.settings.header_timeout_s, self._deadline_expired)

    def _deadline_expired(self) -> None:
        if self._reading == "head":
            limit = f"{self.settings.header_timeout_s:g} s (HEADER_TIMEOUT)"
            self._refuse(HeadTimeout(f"The request's headers did not arrive within {limit}."))
        else:
            self._end()

    # -- calls from uvicorn and the application ------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def timeout_keep_alive_handler(self) -> None:
        if awake.now() - awake.AWAKE.thawed_at < self.timeout_keep_alive:
            # What the client has sent while the process was frozen is not read yet.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        elif not self._refused:
            super().timeout_keep_alive_handler()
            self._hasten_the_end()

    def shutdown(self) -> None:
        if self._answering:
            super().shutdown()
        elif not self._refused and not self.transport.is_closing():
            self._close_after_answer()

    def cut_off(self) -> None:
        """Close at once, for a client that does not read: drop what is buffered for it."""
        self.transport.abort()

    # -- refusing, and closing -----------------------------------------------------------------

    def _refuse(self, error: ServeError) -> None:
        """Read no more of this connection; send `error` unless that would break into an answer."""
        self._refused = True
        self._deadline.stop()
        if self.transport.is_closing():
            return
        metrics.REFUSED.labels(error.code or "").inc()
        client = self.client[0] if self.client else None
        log.info("connection refused", client=client, status=error.status, reason=error.message)
        if not self._answering:
            if self._reading == "body":  # of a request that is already answered
                self._linger()
            else:
                self._send_last(error)
        elif self._reading == "body" and self.pipeline:
            # Drop the request that broke off, before it starts; the one before it is the last.
            self.pipeline.popleft()
            last = self.pipeline[0][0] if self.pipeline else self._running
            assert last is not None
            last.keep_alive = False
        elif self._reading != "body" or self.cycle.response_started:
            # The answers to earlier requests go first, and are the last.
            self.cycle.keep_alive = False
        else:
            # The application must take the client for lost, and send nothing behind the refusal.
            self.cycle.waiting_for_100_continue = False
            self._report_lost()
            self._send_last(error)

    def _send_last(self, error: ServeError) -> None:
        # uvicorn sets `url` when a request begins; empty lines may come before.
        url = b"" if self._reading == "nothing" else self.url
        self.transport.write(_error_answer(error, url, self.server_state.default_headers))
        self._linger()

    def _close_after_answer(self) -> None:
        client_is_sending = self._reading != "nothing" or self._refused
        if client_is_sending and not self.transport.is_closing():
            self._linger()
        else:
            self._end()

    def _end(self) -> None:
        self.transport.close()
        self._hasten_the_end()

    def _hasten_the_end(self) -> None:
        """On TLS `close` has sent our end and waits for the client's: it need not come, since most
        clients look at an idle connection only when they need it again."""
        if self._tls:
            self._deadline.stop()
            self._abort_once_sent(latest=awake.now() + self.settings.write_timeout_s)

    def _linger(self) -> None:
        """Send no more, and throw away what comes, until the client has had time to read."""
        self._refused = True
        self._deadline.stop()
        self._unset_keepalive_if_required()
        self.pipeline.clear()
        if self._tls:
            self.transport.close()  # sends what is left and the end, and throws away what comes
        else:
            self.transport.write_eof()
            self.flow.resume_reading()
        self._abort_once_sent(latest=awake.now() + self.settings.write_timeout_s)

    def _abort_once_sent(self, latest: float, since: int | None = None) -> None:
        """After _LINGER_S with nothing left to send, or at `latest`, by `awake.now`. On TLS the
        rest of a long answer may be left, and it is sent as long as it is read (`since`: what was
        read before)."""
        left, read = self.transport.get_write_buffer_size(), since or 0
        if self._tls:
            left += unacknowledged(self.transport)
            if since is None:
                read = self._read_so_far()

        def lingered() -> None:
            now = awake.now()
            is_read = self._tls and self._read_so_far() - read >= _READ_BYTES
            if left and is_read:
                self._abort_once_sent(now + self.settings.write_timeout_s)
            elif left and now < latest:
                self._abort_once_sent(latest, read)
            else:
                self.transport.abort()

        self._deadline.start(_LINGER_S, lingered)


def _not_http() -> InvalidRequest:
    return InvalidRequest("This is not a valid HTTP request.", code="invalid_http_request")


def _error_answer(error: ServeError, url: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    """A whole HTTP answer that ends its connection. `url`: as far as it was read."""
    path = url.partition(b"?")[0].decode(errors="replace")
    scope = {"path": path, "state": {"request_id": os.urandom(16).hex()}}
    status, body, form_headers = rendered(error, scope)
    own = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        *((name.encode(), value.encode()) for name, value in form_headers.items()),
    ]
    if "connection" not in form_headers:
        own.append((b"connection", b"close"))
    lines = b"".join([b"%b: %b\r\n" % field for field in (*headers, *own)])
    return STATUS_LINE[status] + lines + b"\r\n" + body
