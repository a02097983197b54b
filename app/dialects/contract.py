"""What every dialect is made of, and how its events reach the carrier.

    bytes ─ read ─> body ─ lower ─> GenerationRequest ─ model ─> events ─ presenter ─> frames | JSON

The carrier of a reply (web/, runpod/) knows neither tokens nor fields.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, Generic, Protocol, TypeAlias

import msgspec
import orjson

from app.dialects.body import AnyBody
from app.errors import ServeError
from app.events import Event, Events, Result, fold
from app.generation.model import ServedModel
from app.settings.bounds import Bounds
from app.stats import RequestStats
from app.types import GenerationRequest, Json


class Call(msgspec.Struct, kw_only=True):
    """One call, as a dialect sees it."""

    id: str
    """32 hexadecimal digits: the engine's name for this request."""
    model: ServedModel
    bounds: Bounds
    stats: RequestStats
    log_fields: dict[str, Any]
    """What the end line of the log says about the request: `model`, `max_tokens`, `stream`, ..."""

    def generate(self, request: GenerationRequest) -> Events:
        return self.model.generate(request, self.stats)


class Presenter(Protocol):
    """Events in a dialect's words."""

    def feed(self, event: Event) -> bytes:
        """The frames that this event becomes; may be empty."""

    def fail(self, error: ServeError) -> bytes:
        """The frames that end a stream which has begun and cannot go on."""

    def whole(self, result: Result) -> Json | list[Json]:
        """The same answer in one piece."""


class Whole(msgspec.Struct):
    """An answer in one piece: JSON, encoded."""

    body: bytes


EVENT_STREAM = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
"""Headers of server-sent events that no proxy may hold back."""


class Stream(msgspec.Struct):
    """An answer in pieces, each a write.

    `frames` raises ServeError: before its first piece that is an ordinary error answer, later the
    carrier writes `fail(error)` and ends. Closing `frames` aborts the request.
    """

    frames: AsyncGenerator[bytes, None]
    fail: Callable[[ServeError], bytes]
    heartbeat: bytes = b": keep-alive\n\n"
    """What keeps a silent connection open: a comment, which clients of server-sent events skip."""
    headers: Sequence[tuple[bytes, bytes]] = EVENT_STREAM


Reply: TypeAlias = Whole | Stream


class Dialect(msgspec.Struct, Generic[AnyBody], frozen=True):
    """One endpoint's way of asking and answering."""

    path: str
    summary: str
    body: type[AnyBody]
    answer: Callable[[AnyBody, Call], Awaitable[Reply]]
    example: Json
    """A body that is answered, for the API's description."""


async def present(events: Events, presenter: Presenter, *, stream: bool) -> Reply:
    """Turn events into the client's form. A whole answer is awaited here."""
    if stream:
        return Stream(_frames(events, presenter), presenter.fail)
    async with aclosing(events):
        return Whole(orjson.dumps(presenter.whole(await fold(events))))


async def _frames(events: Events, presenter: Presenter) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        async for beat in events:
            if frames := b"".join([presenter.feed(event) for event in beat]):
                yield frames
