"""One generation request over ASGI: admission, body, answer, and a client who may leave any time.

    admit ── read body ── answer ──┬── whole: one JSON
      │ 503, body unread           └── stream: the status line leaves with the first frame
      └ from here on the ticket is held, and the client may be lost

One application for everything that generates: an early failure has its real status even if a
stream was asked for; a late one becomes the dialect's error frame.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, Protocol, TypeAlias, assert_never

import orjson
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from app import metrics
from app.dialects.contract import Call, Dialect, Stream, Whole, read
from app.errors import (
    BodyTimeout,
    BodyTooLarge,
    ClientGone,
    Draining,
    InternalError,
    NotReady,
    RequestAborted,
    ServeError,
    Unavailable,
    UnsupportedEncoding,
)  # fmt: skip
from app.gate import Ticket
from app.logs.setup import log
from app.settings.catalogue import Settings
from app.types import Json
from app.web.state import Serving

_HEARTBEAT = b": keep-alive\n\n"
_FAREWELL_TIMEOUT_S = 2.0
_BODY_GRACE_S = 5.0
_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]

Encode: TypeAlias = Callable[[ServeError], Json]


class Connection(Protocol):
    """What a request's `scope["state"]["connection"]` is; see web/connection.py."""

    on_lost: Callable[[], None] | None

    def cut_off(self) -> None: ...


def json_response(
    content: Any, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return Response(orjson.dumps(content), status, headers=headers, media_type="application/json")


def error_response(error: ServeError, encode: Encode) -> Response:
    return json_response(encode(error), error.status, _error_headers(error))


class Generation:
    """A dialect's endpoint, an ASGI application."""

    def __init__(self, dialect: Dialect[Any], serving: Serving) -> None:
        self._dialect = dialect
        self._serving = serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # In a task of its own: each token would else resume every coroutine between the server
        # and here, some twenty of them.
        await asyncio.create_task(self._serve(scope, receive, send))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        writer = _Writer(send, scope["state"]["send"], self._dialect.error)
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
        except Exception:  # the outermost writer: whatever it was, the client gets its answer
            log.exception("request failed")
            await writer.fail(InternalError("The server failed on this request."), scope)

    async def _answer(
        self, scope: Scope, receive: Receive, writer: _Writer, ticket: Ticket
    ) -> None:
        state, settings = scope["state"], self._serving.settings
        raw = await read_body(Headers(scope=scope), receive, settings)
        with _Watch(state["connection"], ticket, writer, self._serving):
            model = self._serving.host.model
            if model is None:
                raise NotReady("The model is not ready yet.")
            body = read(self._dialect.body, raw, self._serving.bounds)
            if settings.log_level == "debug":
                log.debug("request body", body=raw[: settings.max_log_len].decode(errors="replace"))
            call = Call(
                id=state["engine_id"],
                model=model,
                bounds=self._serving.bounds,
                stats=state["stats"],
                log_fields=state["log_fields"],
            )
            reply = await self._dialect.answer(body, call)
            match reply:
                case Whole(content):
                    await writer.whole(content)
                case Stream(frames, fail):
                    writer.begin_stream(fail)
                    async with aclosing(frames):
                        async for frame in frames:
                            await writer.frame(frame)
                    await writer.end()
                case _:
                    assert_never(reply)


class _Writer:
    """Sends one answer, and remembers how far it got."""

    def __init__(self, send: Send, send_body: Send, encode: Encode) -> None:
        """`send_body`: the server's own, for all but the head, at which alone the middlewares on
        the way look; each of them costs every frame."""
        self._send = send
        self._send_body = send_body
        self._encode = encode
        self._fail: Callable[[ServeError], bytes] | None = None
        self._heading = asyncio.Lock()
        self._started = False
        self.ended = False
        self.last_write = time.monotonic()
        self.sending_since: float | None = None
        """Since when a write has been waiting for the client to read; None if none is."""

    @property
    def streaming(self) -> bool:
        return self._started and self._fail is not None

    def begin_stream(self, fail: Callable[[ServeError], bytes]) -> None:
        """From now on heartbeats may go out, and failures are frames once the first one has."""
        self._fail = fail
        self.last_write = time.monotonic()

    async def frame(self, data: bytes) -> None:
        if self.sending_since is None:
            self.sending_since = time.monotonic()
        if not self._started:
            await self._head(200, _STREAM_HEADERS)
        await self._send_body({"type": "http.response.body", "body": data, "more_body": True})
        self.last_write = time.monotonic()
        self.sending_since = None

    async def heartbeat(self) -> None:
        if self._fail is not None and not self.ended and self.sending_since is None:
            await self.frame(_HEARTBEAT)

    async def end(self) -> None:
        self.ended = True
        self.sending_since = time.monotonic()
        await self._send_body({"type": "http.response.body", "body": b"", "more_body": False})

    async def whole(self, content: bytes, status: int = 200, headers: Any = ()) -> None:
        base = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
        ]
        self.sending_since = time.monotonic()
        await self._head(status, [*base, *headers])
        self.ended = True
        await self._send_body({"type": "http.response.body", "body": content})

    async def _head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        async with self._heading:  # it may wait for the answer before it to be read
            if not self._started:
                message = {"type": "http.response.start", "status": status, "headers": headers}
                await self._send(message)
                self._started = True

    async def fail(self, error: ServeError, scope: Scope) -> None:
        """End the answer with an error: its real status if nothing has left, else a frame."""
        scope["state"]["ended_by"] = error.code
        scope["state"]["error"] = error.message
        if self.ended:
            return
        try:
            async with asyncio.timeout(_FAREWELL_TIMEOUT_S):
                if not self._started:
                    headers = [(k.encode(), v.encode()) for k, v in _error_headers(error).items()]
                    await self.whole(orjson.dumps(self._encode(error)), error.status, headers)
                elif self._fail is not None:
                    await self.frame(self._fail(error))
                    await self.end()
        except TimeoutError:  # it does not read; what uvicorn would say instead is not the API's
            scope["state"]["connection"].cut_off()


class _Watch:
    """Over the client while its answer is made: one that has left ends its request, one that does
    not read is given up, and a stream that is silent is kept alive."""

    def __init__(
        self, connection: Connection, ticket: Ticket, writer: _Writer, serving: Serving
    ) -> None:
        self._connection, self._ticket, self._writer = connection, ticket, writer
        self._heartbeat_s = serving.settings.heartbeat_s
        self._write_timeout_s = serving.settings.write_timeout_s
        self._loop = asyncio.get_running_loop()
        self._beat: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        self._connection.on_lost = self._lost
        self._look_after(self._heartbeat_s)

    def __exit__(self, *_: object) -> None:
        self._connection.on_lost = None
        assert self._timer is not None
        self._timer.cancel()
        if self._beat is not None:
            self._beat.cancel()

    def _lost(self) -> None:
        if not self._writer.ended:
            self._ticket.end(ClientGone("The client has left."))

    def _look_after(self, wait_s: float) -> None:
        self._timer = self._loop.call_later(min(wait_s, self._write_timeout_s), self._look)

    def _look(self) -> None:
        now = time.monotonic()
        since = self._writer.sending_since
        if since is not None and now - since > self._write_timeout_s:
            self._ticket.end(ClientGone("The client does not read its answer."))
            self._connection.cut_off()
            return
        silent_s = now - self._writer.last_write
        if silent_s >= self._heartbeat_s:
            if self._beat is None or self._beat.done():
                self._beat = self._loop.create_task(self._writer.heartbeat())
            silent_s = 0.0
        self._look_after(max(0.01, self._heartbeat_s - silent_s))


async def read_body(headers: Headers, receive: Receive, settings: Settings) -> bytes:
    """The whole body, within the bounds. Raises BodyTooLarge, BodyTimeout, ClientGone.

    Every byte that arrives buys time, at MIN_BODY_RATE, up to BODY_TIMEOUT.
    """
    encoding = headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedEncoding(
            "Compressed bodies are not supported; send content-encoding: identity."
        )
    max_bytes, timeout_s, rate = (
        settings.max_body_bytes, settings.body_timeout_s, settings.min_body_rate,
    )  # fmt: skip
    too_large = BodyTooLarge(f"The request's body is over {max_bytes} bytes (MAX_BODY_BYTES).")
    declared = headers.get("content-length")
    if declared is not None and declared.isdecimal() and int(declared) > max_bytes:
        raise too_large
    body = bytearray()
    began = asyncio.get_running_loop().time()
    patience_s = min(timeout_s, _BODY_GRACE_S) if rate else timeout_s
    try:
        async with asyncio.timeout_at(began + patience_s) as deadline:
            while True:
                message: Message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone("The client left before its request was complete.")
                body += message.get("body", b"")
                if len(body) > max_bytes:
                    raise too_large
                if not message.get("more_body", False):
                    return bytes(body)
                if rate:
                    patience_s = min(timeout_s, _BODY_GRACE_S + len(body) / rate)
                    deadline.reschedule(began + patience_s)
    except TimeoutError:
        if patience_s < timeout_s:
            said = f"arrives with less than {rate} bytes a second (MIN_BODY_RATE)"
        else:
            said = f"did not arrive within {timeout_s:g} s (BODY_TIMEOUT)"
        raise BodyTimeout(f"The request's body {said}.") from None


def _names(scope: Scope) -> set[str]:
    return {scope["state"]["engine_id"], scope["state"]["request_id"]}


def _error_headers(error: ServeError) -> dict[str, str]:
    headers = {}
    if isinstance(error, RequestAborted):
        headers["x-should-retry"] = "false"  # OpenAI's and Anthropic's clients look for it
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    if isinstance(error, Draining | BodyTimeout):
        headers["connection"] = "close"
    return headers
