"""Answers without a connection: they go on when their client leaves, and can be followed anew.

    start ─ ticket ─ kept as begun ─ (the client has its answer) ─ beats ─ kept as ended

Each holds a ticket of the gate as any request: it counts, it is drained, the engine's end ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from app.dialects.contract import Call, KeptPresenter
from app.errors import InternalError, Overloaded, RequestCancelled, ServeError
from app.events import Events
from app.gate import Gate
from app.logs.setup import log
from app.store.store import Store

_REMEMBERED_S = 300.0
_REMEMBERED_BYTES = 64 * 2**20
"""Frames of answers that have ended; after them they are made of what the store has."""


class Run:
    """One answer, and its frames so far."""

    def __init__(self, owner: str, id: str, presenter: KeptPresenter, *, stream: bool) -> None:
        """`stream`: keep the frames, for who follows."""
        self.owner, self.id, self.streams = owner, id, stream
        self._presenter = presenter
        self._frames: list[bytes] = []
        self.size = 0
        self.ended = False
        self.first = b""
        """The answer when it began, as JSON."""
        self.task: asyncio.Task[None] | None = None
        self._waiting: set[asyncio.Future[None]] = set()

    def now(self) -> bytes:
        return self._presenter.now()

    def add(self, frames: bytes) -> None:
        if frames:
            if self.streams:
                # Each event has the number of its place.
                self._frames += [frame + b"\n\n" for frame in frames.split(b"\n\n") if frame]
                self.size += len(frames)
            self._wake()

    def finish(self) -> None:
        self.ended = True
        self._wake()

    async def follow(self, after: int) -> AsyncGenerator[bytes, None]:
        at = after + 1
        while True:
            if at < len(self._frames):
                some = self._frames[at:]
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
        self._running = 0

    def find(self, owner: str, id: str) -> Run | None:
        run = self._runs.get(id)
        return run if run is not None and run.owner == owner else None

    async def start(
        self, call: Call, id: str, events: Events, presenter: KeptPresenter, *, stream: bool
    ) -> Run:
        """Returns once the answer has its place and is kept as begun. Raises ServeError."""
        if self._running >= self._most:
            raise Overloaded(
                f"{self._most} responses (MAX_BACKGROUND) are being generated in the background."
            )
        run = Run(call.owner, id, presenter, stream=stream)
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._running += 1
        run.task = asyncio.create_task(
            self._run(run, call, events, presenter, begun), name="background"
        )
        try:
            await asyncio.shield(begun)
        except asyncio.CancelledError:  # the client has left before it knew the id
            run.task.cancel()
            raise
        return run

    async def _run(
        self,
        run: Run,
        call: Call,
        events: Events,
        presenter: KeptPresenter,
        begun: asyncio.Future[None],
    ) -> None:
        assert self._store is not None  # the dialect has refused
        error: ServeError | None = None
        try:
            async with self._gate.admit(call.id, run.id) as ticket:
                ticket.arrive()
                cancelled = RequestCancelled("The response was cancelled.")
                self._store.claim(run.id, lambda: ticket.end(cancelled))
                await presenter.keep_begun()
                self._runs[run.id] = run
                run.first = run.now()
                begun.set_result(None)
                await _generate(run, events, presenter)
        except ServeError as raised:
            error = raised
        except Exception:  # nobody awaits this task
            log.exception("a response in the background failed")
            error = InternalError("The server failed on this request.")
        finally:
            self._running -= 1
            await events.aclose()
            try:
                if error is not None and begun.done():
                    run.add(await presenter.break_off(error))
            finally:
                self._store.disclaim(run.id)
                run.finish()
                if not begun.done():
                    begun.set_exception(error or InternalError("The request was ended."))
                    begun.exception()  # its client may have left
                self._forget_some(run)

    def _forget_some(self, ended_now: Run) -> None:
        ended = [run for run in self._runs.values() if run.ended]
        size = sum(run.size for run in ended)
        for run in ended:
            if size > _REMEMBERED_BYTES:
                size -= run.size
                del self._runs[run.id]
        asyncio.get_running_loop().call_later(_REMEMBERED_S, self._runs.pop, ended_now.id, None)


async def _generate(run: Run, events: Events, presenter: KeptPresenter) -> None:
    async with aclosing(events):
        async for beat in events:
            run.add(b"".join([presenter.feed(event) for event in beat]))
    run.add(await presenter.close())
