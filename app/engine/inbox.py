"""What the engine said and its request has not taken yet; and how much of it goes out together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from app.engine.base import Chunk

_WINDOW_S = 0.25
_WIDEN_ABOVE = 0.4
_NARROW_BELOW = 0.3
_LONGEST_HOLD_S = 0.1


class Inbox:
    """Chunks of one request, all its choices. One consumer.

    Whoever puts something in decides whether it wakes the consumer: what lies here when it comes
    is taken in one piece.
    """

    __slots__ = ("_chunks", "_error", "_waiter", "phase", "step")

    def __init__(self, phase: int = 0) -> None:
        self._chunks: list[Chunk] = []
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.phase = phase
        """Spreads the requests over the engine's steps, where not each of them is passed on."""
        self.step = 0
        """The last one that had something for it."""

    def put(self, chunk: Chunk) -> None:
        self._chunks.append(chunk)

    def fail(self, error: Exception) -> None:
        """Raise `error` to the consumer, after what came before it."""
        self._error = error
        self.wake()

    def wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def take(self) -> list[Chunk]:
        """All that is there, at least one; of each choice at most one, in the order of their first.

        Raises what `fail` was given.
        """
        while not self._chunks:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        chunks, self._chunks = self._chunks, []
        return chunks if len(chunks) == 1 else merged(chunks)


def merged(chunks: list[Chunk]) -> list[Chunk]:
    """One chunk for each choice, as if the engine had said all of it at once."""
    choices: dict[int, list[Chunk]] = {}
    for chunk in chunks:
        choices.setdefault(chunk.index, []).append(chunk)
    return [each[0] if len(each) == 1 else _one(each) for each in choices.values()]


def _one(chunks: list[Chunk]) -> Chunk:
    last = chunks[-1]
    return Chunk(
        last.index,
        "".join([chunk.text for chunk in chunks]),
        last.prompt_tokens,
        last.completion_tokens,
        last.cached_tokens,
        last.reasoning_tokens,
        last.finish,
        last.matched,
        ids=[id for chunk in chunks for id in chunk.ids],
        scored=tuple([token for chunk in chunks for token in chunk.scored]),
        prompt=next((chunk.prompt for chunk in chunks if chunk.prompt), ()),
    )


class Pace:
    """Lets each request see only every `stride`-th step of the engine while the event loop lags.

    A frame costs the same whether it carries one token or four. When what one step sets going
    takes more than `_WIDEN_ABOVE` of the time until the next, frames grow instead of queues: the
    stream becomes coarser, new requests are taken in sooner, the engine keeps its processor. They
    shrink when smaller ones would take less than `_NARROW_BELOW`. First and last tokens never wait,
    others no longer than `_LONGEST_HOLD_S`.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, widest: int, *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:  # fmt: skip
        """`widest`: the largest stride; 1 switches this off."""
        self._loop = loop
        self._widest = widest
        self._clock = clock
        self.stride = 1
        self._step = 0
        self._busy_s = 0.0
        self._since = clock()
        self._began = 0.0
        self._held: dict[Inbox, None] = {}
        self._release: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """A step's output has come."""
        self._step += 1
        self._began = self._clock()

    def put(self, inbox: Inbox) -> None:
        """Something that may wait has been put into `inbox`."""
        if self.stride == 1:  # nothing is held
            inbox.wake()
            return
        if inbox.step != self._step:  # its choices come in one; in others it may have no part
            inbox.step = self._step
            inbox.phase += 1
        if inbox.phase % self.stride == 0:
            self._held.pop(inbox, None)
            inbox.wake()
            return
        self._held[inbox] = None
        if self._release is None:
            self._release = self._loop.call_later(_LONGEST_HOLD_S, self.release)

    def end(self) -> None:
        """All of the step has been put; whoever it woke runs before `_settled`."""
        if self._widest > 1:
            self._loop.call_soon(self._settled)

    def release(self) -> None:
        """Nothing waits any longer."""
        if self._release is not None:
            self._release.cancel()
            self._release = None
        held, self._held = self._held, {}
        for inbox in held:
            inbox.wake()

    def _settled(self) -> None:
        now = self._clock()
        self._busy_s += now - self._began
        elapsed_s = now - self._since
        if elapsed_s < _WINDOW_S:
            return
        busy = self._busy_s / elapsed_s
        if busy > _WIDEN_ABOVE and self.stride < self._widest:
            self.stride += 1
        elif self.stride > 1 and busy * self.stride / (self.stride - 1) < _NARROW_BELOW:
            self.stride -= 1
            if self.stride == 1:
                self.release()
        self._busy_s, self._since = 0.0, now
