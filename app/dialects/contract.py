"""The parts of a dialect, and how its events reach the carrier of the answer.

    bytes ─ read ─> body ─ lower ─> GenerationRequest ─ model ─> events ─ presenter ─> frames | JSON

The carrier (web/, runpod/) knows neither tokens nor fields.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Generic, Literal, Protocol, TypeAlias

import msgspec

from app.dialects.body import AnyBody, Body
from app.dialects.json_array import encoded_parts
from app.dialects.narration import Narration
from app.dialects.sealing import Seal
from app.errors import ServeError
from app.events import Event, Events, Result, Scored, fold
from app.files.files import Files
from app.gate import Ticket
from app.generation.model import ServedModel
from app.settings.bounds import Bounds
from app.settings.catalogue import most_body_bytes
from app.stats import RequestStats
from app.store.store import Store
from app.types import GenerationRequest, Json


class Call(msgspec.Struct, kw_only=True):
    """One request, as a dialect receives it beside its body."""

    id: str
    """32 hexadecimal digits: the request's id in the engine."""
    model: ServedModel
    bounds: Bounds
    seal: Seal
    owner: str = ""
    """Whose request it is: what is kept for one owner is hidden from the others. \"\": there are no
    keys, and all clients are one."""
    store: Store | None = None
    files: Files | None = None
    """What clients have uploaded; None: this server keeps no files."""
    background: Background | None = None
    """None without a store."""
    ticket: Ticket
    """Its place in the server."""
    stats: RequestStats
    adapter: str | None = None
    """The name of the adapter that the request asks for."""
    log_fields: dict[str, Any]
    """Fields of the request's end line in the log: `id` (the answer's), `model`, `stream`, ..."""
    path: str = ""
    """The dialect's."""
    narration: Narration | None = None
    """None: the log has the request's end line only."""

    @property
    def most_body_bytes(self) -> int:
        """Of a request, and of what precedes it."""
        pictures = self.model.info.takes_pictures
        return most_body_bytes(self.bounds.max_body_bytes, pictures=pictures)

    def generate(self, request: GenerationRequest, stats: RequestStats | None = None) -> Events:
        """`stats`: others than the request's."""
        if self.bounds.cache_scope != "all" or request.cache_salt:
            request = self._scoped(request)
        if self.adapter is not None:
            request = msgspec.structs.replace(request, adapter=self.adapter)
        stats = stats or self.stats
        events = self.model.generate(request, stats)
        if self.narration is None:
            return events
        return self.narration.tell(events, stats, self.path, dict(self.log_fields))

    def _scoped(self, request: GenerationRequest) -> GenerationRequest:
        """With its part of the prefix cache. A client can tell from the time of an answer what is
        in the cache: tenants that must not learn of each other's prompts have parts of their own.
        """
        scope, parts = self.bounds.cache_scope, [request.cache_salt]
        if scope != "all":
            parts.append(self.owner)
        if scope == "session":
            parts.append(request.session)
        cache_scope = "\0".join(parts) if any(parts) else ""
        return msgspec.structs.replace(request, cache_scope=cache_scope)


class Background(Protocol):
    """Runs what answers without a connection (dialects/background.py)."""

    async def start(
        self,
        call: Call,
        id: str,
        request: GenerationRequest,
        presenter: KeptPresenter,
        *,
        stream: bool,
    ) -> Running:
        """Begin. Raises ServeError, and then nothing has begun."""

    def has(self, id: str) -> bool:
        """It begins or runs here, or has ended here lately: what it holds is its own to let go."""

    def find(self, owner: str, id: str) -> Running | None:
        """One that runs here, or has ended here lately."""

    def forget(self, owner: str, id: str) -> None:
        """One that has ended and was removed."""


class Running(Protocol):
    """What is answered in the background."""

    ended: bool
    kept: bool
    """As it ended: the store has it."""
    first: bytes
    """The answer when it began, as JSON."""
    streams: bool
    """Its frames are there to be followed."""

    def now(self) -> bytes:
        """The answer as far as it is, as JSON."""

    def follow(self, after: int) -> AsyncGenerator[bytes, None]:
        """Its frames after this sequence number, until its end, or until `streams` is no more. -1:
        all of them."""

    async def end(self) -> None:
        """Returns once it has ended."""


class Presenter(Protocol):
    """Renders events as a dialect's frames or JSON."""

    def feed(self, event: Event) -> bytes:
        """Render an event; b"" if it has no frame."""

    def fail(self, error: ServeError) -> bytes:
        """Render the frames that end a stream with an error."""

    def keep_scores(self, scored: Scored) -> None:
        """Render log-probabilities of a whole answer, as they come."""

    def whole(self, result: Result) -> Json | list[Json]:
        """Render the same answer as one JSON value."""


class Whole(msgspec.Struct):
    """A whole answer: encoded JSON, which `more` continues."""

    body: bytes | bytearray
    more: Sequence[bytes | bytearray] = ()


EVENT_STREAM = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
"""Headers of server-sent events; the last one stops nginx from buffering them."""


def keep_alive() -> bytes:
    """A comment, which clients of server-sent events skip. Without a blank line: some take that for
    an event without data."""
    return b": keep-alive\n"


class Stream(msgspec.Struct):
    """An answer in pieces, each written at once.

    `frames` may raise ServeError. Before the first piece the carrier then answers with an ordinary
    error; later it writes `fail(error)` and ends the answer. Closing `frames` aborts the request.
    """

    frames: AsyncGenerator[bytes, None]
    fail: Callable[[ServeError], bytes]
    heartbeat: Callable[[], bytes] = keep_alive
    """Makes what keeps a silent connection open."""
    headers: Sequence[tuple[bytes, bytes]] = EVENT_STREAM


Reply: TypeAlias = Whole | Stream


class Dialect(msgspec.Struct, Generic[AnyBody], frozen=True):
    """One endpoint: its path, its body and the function that answers it."""

    path: str
    summary: str
    body: type[AnyBody]
    answer: Callable[[AnyBody, Call], Awaitable[Reply]]
    """Where the engine generates, an ordinary function that returns `present(...)`: a coroutine
    would keep the body, up to MAX_BODY_BYTES, until the answer ends."""
    example: Json
    """A valid body, for the description of the API."""


class Ask(msgspec.Struct, kw_only=True):
    """A request to a `Resource`."""

    ids: Mapping[str, str]
    """What stands in the path in the place of the names in braces."""
    query: Mapping[str, str]
    body: Any = None
    """As the resource's `body`; None if it has none."""
    owner: str
    """As of `Call`."""
    store: Store | None
    files: Files | None
    background: Background


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """A route to something that is kept. It generates nothing, and takes no place."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    """With names in braces."""
    summary: str
    answer: Callable[[Ask], Awaitable[Reply]]
    body: type[Body] | None = None
    example: Json | None = None
    """A valid body."""
    query: Mapping[str, Json] = {}
    """Parameters that it takes: name -> JSON Schema, with a description."""


async def present(events: Events, presenter: Presenter, *, stream: bool) -> Reply:
    """Render events as the client asked for them. Awaits a whole answer to its end."""
    if stream:
        return Stream(_frames(events, presenter), presenter.fail)
    async with aclosing(events):
        result = await fold(events, presenter.keep_scores)
    first, *more = encoded_parts(presenter.whole(result))
    return Whole(first, more)


class OrderedPresenter(Protocol):
    """Renders events as items in an order, which a `Result` does not keep: a whole answer is fed to
    it, too, without frames, so that both forms have the same items."""

    final: bytes | None
    """The whole answer, once it is complete."""

    def feed(self, event: Event) -> bytes:
        """As of `Presenter`; b"" if the answer is not streamed."""

    def fail(self, error: ServeError) -> bytes:
        """As of `Presenter`."""

    def heartbeat(self) -> bytes:
        """As of `Stream`."""

    async def close(self) -> bytes:
        """The last frames, once all events have been fed; may wait until the answer is kept."""


class KeptPresenter(OrderedPresenter, Protocol):
    """Of an answer that is kept from its beginning to whatever end it has."""

    kept: bool
    """As it ended."""

    def now(self) -> bytes:
        """The answer as far as it is, as JSON."""

    async def keep_begun(self) -> None:
        """Keep that the answer has begun. Raises StoreUnavailable."""

    async def break_off(self, error: ServeError) -> bytes:
        """Keep that it failed, or was cancelled; the last frames."""

    async def abandon(self) -> None:
        """It has failed before it was kept as begun: let go of what it holds."""


async def present_in_order(events: Events, presenter: OrderedPresenter, *, stream: bool) -> Reply:
    """As `present`."""
    if stream:
        frames = _frames(events, presenter, presenter.close)
        return Stream(frames, presenter.fail, presenter.heartbeat)
    async with aclosing(events):
        async for beat in events:
            for event in beat:
                presenter.feed(event)
    await presenter.close()
    assert presenter.final is not None
    return Whole(presenter.final)


async def _frames(
    events: Events,
    presenter: Presenter | OrderedPresenter,
    close: Callable[[], Awaitable[bytes]] | None = None,
) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        async for beat in events:
            if frames := b"".join([presenter.feed(event) for event in beat]):
                if b"\xe2\x80" in frames or b"\xc2\x85" in frames:
                    frames = in_one_line(frames)
                yield frames
    if close is not None and (frames := await close()):
        yield frames


def in_one_line(frames: bytes) -> bytes:
    """Escape what Unicode counts as the end of a line, and server-sent events do not: clients that
    cut lines by Unicode's rules (Python's `splitlines`) would lose the frame."""
    for character, escaped in _LINE_ENDS:
        frames = frames.replace(character, escaped)
    return frames


_LINE_ENDS = (
    ("\u2028".encode(), b"\\u2028"),
    ("\u2029".encode(), b"\\u2029"),
    ("\x85".encode(), b"\\u0085"),
)
