"""The streams of several prompts, or of parts of a prompt's choices, as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeAlias

import msgspec

from app.engine.base import Chunk

Stream: TypeAlias = tuple[int, AsyncGenerator[Chunk, None]]
"""With the number that its first choice has in the whole request."""


def parts(prompts: int, choices: int, most: int) -> list[tuple[int, int]]:
    """A request in parts of one prompt and at most so many choices: (number of the first, count).

    Choices are numbered through all prompts. Those of a search with beams are found together.
    """
    return [
        (prompt * choices + first, min(most, choices - first))
        for prompt in range(prompts)
        for first in range(0, choices, most)
    ]


async def merge(streams: Sequence[Stream]) -> AsyncGenerator[list[Chunk], None]:
    """Yield batches: all chunks that are ready when the consumer comes for more.

    A chunk's index becomes that of its choice in the whole request. The first stream that fails
    ends the others; its error is raised.
    """
    ready: asyncio.Queue[tuple[int, Chunk | None]] = asyncio.Queue()
    pumping = asyncio.create_task(_pump_all(streams, ready))
    open_streams = len(streams)
    getting: asyncio.Future[tuple[int, Chunk | None]] | None = None
    try:
        while open_streams:
            getting = asyncio.ensure_future(ready.get())
            await asyncio.wait({getting, pumping}, return_when=asyncio.FIRST_COMPLETED)
            if not getting.done():
                getting.cancel()
                await pumping
                continue
            batch = [getting.result()]
            while not ready.empty():
                batch.append(ready.get_nowait())
            open_streams -= sum(chunk is None for _, chunk in batch)
            if chunks := [_at(first, chunk) for first, chunk in batch if chunk is not None]:
                yield chunks
    except* Exception as group:
        raise _first(group) from group
    finally:
        if getting is not None:
            getting.cancel()
        pumping.cancel()
        await asyncio.gather(pumping, return_exceptions=True)


async def _pump_all(
    streams: Sequence[Stream], ready: asyncio.Queue[tuple[int, Chunk | None]]
) -> None:
    async with asyncio.TaskGroup() as group:
        for first, stream in streams:
            group.create_task(_pump(first, stream, ready))


async def _pump(
    first: int, stream: AsyncGenerator[Chunk, None], ready: asyncio.Queue[tuple[int, Chunk | None]]
) -> None:
    """Put each chunk with the number of its stream's first choice; None at its end."""
    async with aclosing(stream):
        async for chunk in stream:
            ready.put_nowait((first, chunk))
    ready.put_nowait((first, None))


def _at(first: int, chunk: Chunk) -> Chunk:
    return msgspec.structs.replace(chunk, index=first + chunk.index) if first else chunk


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
