"""The streams of several prompts as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec

from app.engine.base import Chunk


async def merge(
    streams: Sequence[AsyncGenerator[Chunk, None]], *, choices: int
) -> AsyncGenerator[list[Chunk], None]:
    """Yield batches: all chunks that are ready when the consumer comes for more.

    Each stream has `choices` choices; a chunk's index becomes that of its choice in the whole
    request. The first stream that fails ends the others; its error is raised.
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
            if chunks := [_at(no * choices, chunk) for no, chunk in batch if chunk is not None]:
                yield chunks
    except* Exception as group:
        raise _first(group) from group
    finally:
        if getting is not None:
            getting.cancel()
        pumping.cancel()
        await asyncio.gather(pumping, return_exceptions=True)


async def _pump_all(
    streams: Sequence[AsyncGenerator[Chunk, None]], ready: asyncio.Queue[tuple[int, Chunk | None]]
) -> None:
    async with asyncio.TaskGroup() as group:
        for no, stream in enumerate(streams):
            group.create_task(_pump(no, stream, ready))


async def _pump(
    no: int, stream: AsyncGenerator[Chunk, None], ready: asyncio.Queue[tuple[int, Chunk | None]]
) -> None:
    """Put each chunk with the number of its stream; None at its end."""
    async with aclosing(stream):
        async for chunk in stream:
            ready.put_nowait((no, chunk))
    ready.put_nowait((no, None))


def _at(first: int, chunk: Chunk) -> Chunk:
    return msgspec.structs.replace(chunk, index=first + chunk.index) if first else chunk


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
