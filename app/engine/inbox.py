"""Chunks that have come from the engine and wait for their request."""

from __future__ import annotations

import asyncio

from app.engine.base import Chunk


class Inbox:
    """Chunks of one request, all its choices. One consumer.

    The producer decides when to wake the consumer, which then takes all chunks at once.
    """

    __slots__ = ("_chunks", "_error", "_waiter", "phase", "step")

    def __init__(self, phase: int = 0) -> None:
        self._chunks: list[Chunk] = []
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.phase = phase
        """Spreads the requests over the engine's steps while `Pace` passes on only some of them."""
        self.step = 0
        """The last step that had a chunk for this request."""

    def put(self, chunk: Chunk) -> None:
        self._chunks.append(chunk)

    def fail(self, error: Exception) -> None:
        """Raise `error` in the consumer, after the chunks that came before it."""
        self._error = error
        self.wake()

    def wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def take(self) -> list[Chunk]:
        """Wait for chunks; at most one of each choice, in the order of each choice's first.

        Raises the error of `fail`.
        """
        while not self._chunks:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        chunks, self._chunks = self._chunks, []
        return chunks if len(chunks) == 1 else merged(chunks)


def merged(chunks: list[Chunk]) -> list[Chunk]:
    """One chunk for each choice, as if the engine had sent all of it at once."""
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
