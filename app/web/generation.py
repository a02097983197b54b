"""One generating request over ASGI: admission, body, answer, and a client that may disconnect.

    admit ── read body ── arrive ── answer ──┬── whole: one JSON
      │ 503, body unread    │ 503            └── stream: the head leaves with the first frame
      └ the ticket is held from here on, and the client may disconnect

An error before the first frame is answered with its own status, even if the client asked for a
stream; a later one becomes the dialect's error frame.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Any, Protocol, TypeAlias, assert_never

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from app import metrics
from app.dialects.contract import Dialect, Stream, Whole
from app.errors import ClientGone, InternalError, ServeError, Unavailable
from app.gate import Ticket
from app.logs.setup import log
from app.web.bodies import read_body
from app.web.responses import note_error, rendered
from app.web.state import Serving

Buffer: TypeAlias = bytes | bytearray
_SLICE_BYTES = 256 * 1024
"""Written at a time of an answer with many log-probabilities."""
_ERROR_TIMEOUT_S = 2.0
"""For the client to receive an error."""


class Connection(Protocol):
    """A request's `scope["state"]["connection"]`, as far as it is used here (web/connection.py)."""

    on_lost: Callable[[], None] | None
    unread: bool

    def cut_off(self) -> None: ...

    async def sent(self) -> None: ...


class Generation:
    """A dialect's endpoint, as an ASGI application."""

    def __init__(self, dialect: Dialect[Any], serving: Serving) -> None:
        self._dialect = dialect
        self._serving = serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # In a task of its own: otherwise each token would resume the some twenty coroutines
        # between the server and here.
        await asyncio.create_task(self._serve(scope, receive, send))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        writer = _Writer(send, scope["state"]["send"])
        try:
            async with self._serving.gate.admit(*_names(scope)) as ticket:
                await self._answer(scope, receive, writer, ticket)
        except ClientGone as gone:
            phase = "streaming" if writer.streaming else "waiting"
            metrics.DISCONNECTS.labels(phase).inc()
            scope["state"]["ended_by"] = gone.code
            scope["state"]["status"] = gone.status
        except ServeError as error:
            if isinstance(error, Unavailable):
                metrics.REFUSED.labels(error.code or "").inc()
            await writer.fail(error, scope)
        except Exception:  # the outermost writer: the client gets an answer whatever failed
            log.exception("request failed")
            await writer.fail(InternalError("The server failed on this request."), scope)

    async def _answer(
        self, scope: Scope, receive: Receive, writer: _Writer, ticket: Ticket
    ) -> None:
        state = scope["state"]
        raw: bytes | None
        headers, settings = Headers(scope=scope), self._serving.settings
        most = self._serving.most_body_bytes
        raw = await read_body(headers, receive, settings, most, arrived=ticket.grow)
        ticket.arrive()
        connection: Connection = state["connection"]
        with _Watch(connection, ticket, writer, self._serving):
            answer = self._serving.answering.answer(
                self._dialect,
                raw,
                id=state["engine_id"],
                owner=state["owner"],
                ticket=ticket,
                model=self._serving.host.model,
                stats=state["stats"],
                log_fields=state["log_fields"],
            )
            raw = None  # up to MAX_BODY_BYTES, not needed while the engine answers
            reply = await answer
            match reply:
                case Whole(content, more):
                    await writer.whole(content, more)
                case Stream():
                    writer.begin_stream(reply)
                    async with aclosing(reply.frames) as frames:
                        async for frame in frames:
                            await writer.frame(frame)
                    await writer.end()
                case _:
                    assert_never(reply)
            await connection.sent()  # until then it is in memory, and has its place


class _Writer:
    """Sends one answer, and knows how much of it has been sent."""

    def __init__(self, send: Send, send_body: Send) -> None:
        """`send_body`: the server's own `send`, for everything but the head. Only the head concerns
        the middlewares, and each middleware would cost every frame a call."""
        self._send = send
        self._send_body = send_body
        self._stream: Stream | None = None
        self._heading = asyncio.Lock()
        self._started = False
        self.ended = False
        self._beating: asyncio.Task[Any] | None = None
        """Sends a heartbeat: it goes out before what comes after it."""
        self.last_write = time.monotonic()
        self._sending = False
        """A write may be waiting for the client to read."""

    @property
    def streaming(self) -> bool:
        return self._started and self._stream is not None

    def begin_stream(self, stream: Stream) -> None:
        """From now on heartbeats may be sent; once a frame was sent, errors are frames, too."""
        self._stream = stream
        self.last_write = time.monotonic()

    async def frame(self, data: bytes, *, beats: bool = False) -> None:
        """`beats`: it is a heartbeat."""
        if self._beating is not None and not beats:
            await asyncio.wait({self._beating})
        self._sending = True
        if not self._started:
            assert self._stream is not None
            await self._head(200, list(self._stream.headers))
        await self._send_body({"type": "http.response.body", "body": data, "more_body": True})
        self.last_write = time.monotonic()
        self._sending = False

    async def heartbeat(self) -> None:
        if self._stream is None or self.ended or self._sending:
            return
        self._beating = asyncio.current_task()
        try:
            await self.frame(self._stream.heartbeat(), beats=True)
        finally:
            self._beating = None

    async def end(self) -> None:
        self.ended = True
        if self._beating is not None:
            await asyncio.wait({self._beating})
        await self._send_body({"type": "http.response.body", "body": b"", "more_body": False})

    async def whole(
        self, content: Buffer, more: Sequence[Buffer] = (), status: int = 200, headers: Any = ()
    ) -> None:
        size = len(content) + sum(map(len, more))
        base = [(b"content-type", b"application/json"), (b"content-length", str(size).encode())]
        await self._head(status, [*base, *headers])
        if more:
            for part in _slices(content, *more):
                await self._send_body(
                    {"type": "http.response.body", "body": part, "more_body": True}
                )
            content = b""
        self.ended = True
        await self._send_body({"type": "http.response.body", "body": content})

    async def _head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        async with self._heading:  # `send` may wait until the previous answer is read
            if not self._started:
                message = {"type": "http.response.start", "status": status, "headers": headers}
                await self._send(message)
                self._started = True

    async def fail(self, error: ServeError, scope: Scope) -> None:
        """End the answer with an error: its own status if nothing was sent yet, else a frame."""
        note_error(error, scope)
        if self.ended:
            return
        try:
            async with asyncio.timeout(_ERROR_TIMEOUT_S):
                if not self._started:
                    status, content, fields = rendered(error, scope)
                    headers = [(k.encode(), v.encode()) for k, v in fields.items()]
                    await self.whole(content, status=status, headers=headers)
                elif self._stream is not None:
                    await self.frame(self._stream.fail(error))
                    await self.end()
        except TimeoutError:  # the client does not read; uvicorn must not send an answer of its own
            scope["state"]["connection"].cut_off()


class _Watch:
    """Watches the client while its request is answered: a disconnect ends the request, and a
    silent stream gets heartbeats."""

    def __init__(
        self, connection: Connection, ticket: Ticket, writer: _Writer, serving: Serving
    ) -> None:
        self._connection, self._ticket, self._writer = connection, ticket, writer
        self._heartbeat_s = serving.settings.heartbeat_s
        self._loop = asyncio.get_running_loop()
        self._heartbeat: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        self._connection.on_lost = self._lost
        self._check_in(self._heartbeat_s)

    def __exit__(self, *_: object) -> None:
        if self._connection.on_lost == self._lost:  # else the next request's, which came early
            self._connection.on_lost = None
        assert self._timer is not None
        self._timer.cancel()  # a heartbeat that waits for the client goes out before what follows

    def _lost(self) -> None:
        if not self._writer.ended:
            unread = self._connection.unread
            why = "The client does not read its answer." if unread else "The client has left."
            self._ticket.end(ClientGone(why))

    def _check_in(self, wait_s: float) -> None:
        self._timer = self._loop.call_later(wait_s, self._check)

    def _check(self) -> None:
        silent_s = time.monotonic() - self._writer.last_write
        if silent_s >= self._heartbeat_s:
            if self._heartbeat is None or self._heartbeat.done():
                self._heartbeat = self._loop.create_task(self._writer.heartbeat())
            silent_s = 0.0
        self._check_in(max(0.01, self._heartbeat_s - silent_s))


def _slices(*parts: Buffer) -> Iterator[bytes]:
    for part in parts:
        view = memoryview(part)
        for at in range(0, len(part), _SLICE_BYTES):
            yield bytes(view[at : at + _SLICE_BYTES])


def _names(scope: Scope) -> set[str]:
    return {scope["state"]["engine_id"], scope["state"]["request_id"]}
