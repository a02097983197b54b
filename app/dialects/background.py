"""Answers without a connection: they go on when their client leaves, and can be followed anew.

    start ─ ticket ─ kept as begun ─ (the client has its answer) ─ beats ─ kept as ended

Each has the place of the request that began it: it counts, it is drained, the engine's end ends it.
The server is not idle before its end is kept, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from app import metrics
from app.dialects.contract import Call, KeptPresenter, in_one_line
from app.errors import InternalError, Overloaded, RequestCancelled, ServeError, UnsupportedParameter
from app.events import Events
from app.gate import Gate, Ticket
from app.logs import setup as logs
from app.logs.setup import log
from app.stats import RequestStats
from app.store.store import Store
from app.types import GenerationRequest

_REMEMBERED_S = 300.0
_REMEMBERED_BYTES = 64 * 2**20
"""Of answers that have ended; after that they are made of what the store has."""
_SLICE = 64
"""Frames that a follower gets at a time."""


class Run:
    """One answer, and its frames so far."""

    def __init__(
        self, owner: str, id: str, presenter: KeptPresenter, *, stream: bool, most_bytes: int
    ) -> None:
        """`stream`: keep the frames, for who follows, up to `most_bytes`."""
        self.owner, self.id, self.streams = owner, id, stream
        self._presenter: KeptPresenter | None = presenter
        self._most_bytes = most_bytes
        self._frames: list[bytes] = []
        self._final = b""
        self.size = 0
        self.ended = self.kept = False
        self.first = presenter.now()
        """The answer when it began, as JSON."""
        self._waiting: set[asyncio.Future[None]] = set()

    def now(self) -> bytes:
        return self._final if self._presenter is None else self._presenter.now()

    def add(self, frames: bytes) -> None:
        if not frames:
            return
        if self.streams:
            # Each event has the number of its place.
            self._frames += [each + b"\n\n" for each in in_one_line(frames).split(b"\n\n")[:-1]]
            self.size += len(frames)
            if self.size > self._most_bytes:
                self.streams, self.size, self._frames = False, 0, []
        self._wake()

    def finish(self) -> None:
        """It has ended: let go of all but what clients may still ask for."""
        presenter, self._presenter = self._presenter, None
        assert presenter is not None
        self.kept = presenter.kept
        if not self.kept:  # the store does not have it
            self._final = presenter.now()
            self.size += len(self._final)
        self.ended = True
        self._wake()

    async def follow(self, after: int) -> AsyncGenerator[bytes, None]:
        """Ends early if the frames have become too many to be kept."""
        at = after + 1
        while self.streams:
            if at < len(self._frames):
                some = self._frames[at : at + _SLICE]
                at += len(some)
                yield b"".join(some)
            elif self.ended:
                return
            else:
                await self._changed()

    async def end(self) -> None:
        while not self.ended:
            await self._changed()

    async def _changed(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            await waiter
        finally:
            self._waiting.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)


class Backgrounds:
    """Those of one process."""

    def __init__(self, gate: Gate, store: Store | None, *, most: int) -> None:
        self._gate, self._store, self._most = gate, store, most
        self._runs: dict[str, Run] = {}
        """By the id of the answer, those that have ended included, in their order."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._beginning: set[str] = set()
        """Ids of answers that are not kept as begun yet."""

    def has(self, id: str) -> bool:
        return id in self._beginning or id in self._runs

    def find(self, owner: str, id: str) -> Run | None:
        run = self._runs.get(id)
        return run if run is not None and run.owner == owner else None

    def forget(self, owner: str, id: str) -> None:
        if (run := self.find(owner, id)) is not None and run.ended:
            del self._runs[id]

    async def start(
        self,
        call: Call,
        id: str,
        request: GenerationRequest,
        presenter: KeptPresenter,
        *,
        stream: bool,
    ) -> Run:
        """Returns once the answer has the request's place and is kept as begun. Raises
        ServeError."""
        if not self._most:
            raise UnsupportedParameter(
                "'background' is switched off on this server.", param="background"
            )
        if len(self._tasks) >= self._most:
            raise Overloaded(
                f"{self._most} responses (MAX_BACKGROUND) are being generated in the background."
            )
        assert self._store is not None  # the dialect has refused
        most_bytes = self._store.most_response_bytes
        run = Run(call.owner, id, presenter, stream=stream, most_bytes=most_bytes)
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        stats = RequestStats()
        stats.owner = call.owner
        events = call.generate(request, stats)
        ticket = call.ticket.hand_over(call.id, run.id, logs.request_id.get() or "")
        task = asyncio.create_task(
            self._live(run, call, events, presenter, begun, stats, ticket), name="background"
        )
        self._beginning.add(id)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # If its client disconnects now, the response is generated and kept all the same.
        await asyncio.shield(begun)
        return run

    async def _live(
        self,
        run: Run,
        call: Call,
        events: Events,
        presenter: KeptPresenter,
        begun: asyncio.Future[None],
        stats: RequestStats,
        ticket: Ticket,
    ) -> None:
        assert self._store is not None
        error: ServeError | None = None
        with self._gate.unfinished():
            try:
                async with ticket:
                    cancelled = RequestCancelled("The response was cancelled.")
                    self._store.claim(run.owner, run.id, lambda: ticket.end(cancelled))
                    await presenter.keep_begun()
                    self._runs[run.id] = run
                    self._beginning.discard(run.id)
                    begun.set_result(None)
                    await _generate(run, events, presenter)
            except ServeError as raised:
                error = raised
            except Exception:  # no task awaits this one: clients must see that it failed
                log.exception("a response in the background failed")
                error = InternalError("The server failed on this request.")
            await events.aclose()
            if not begun.done():
                begun.set_exception(error or InternalError("The request was ended."))
                begun.exception()  # its client may have left
                self._store.disclaim(run.id)
                await presenter.abandon()
                self._beginning.discard(run.id)
                return
            try:
                # Outside the ticket: from here on nothing ends it any more.
                last = presenter.close() if error is None else presenter.break_off(error)
                run.add(await last)
            finally:
                self._store.disclaim(run.id)
                run.finish()
                self._note_end(run, stats, error)

    def _note_end(self, run: Run, stats: RequestStats, error: ServeError | None) -> None:
        metrics.record(stats)
        log.info(
            "response in the background finished",
            response=run.id,
            kept=run.kept,
            **stats.log_fields(ended_by=error.code if error else None),
        )
        if run.kept and not run.streams:
            self._runs.pop(run.id, None)
            return
        ended = [each for each in self._runs.values() if each.ended]
        size = sum(each.size for each in ended)
        for each in ended:
            if size > _REMEMBERED_BYTES:
                size -= each.size
                del self._runs[each.id]
        asyncio.get_running_loop().call_later(_REMEMBERED_S, self._runs.pop, run.id, None)


async def _generate(run: Run, events: Events, presenter: KeptPresenter) -> None:
    async with aclosing(events):
        async for beat in events:
            run.add(b"".join([presenter.feed(event) for event in beat]))
