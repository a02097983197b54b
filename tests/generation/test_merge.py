"""The streams of several prompts as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.base import Chunk
from app.errors import InternalError
from app.generation.merge import merge, parts


class Stream:
    """Yields what is put into it; an exception is raised, None is the end."""

    def __init__(self) -> None:
        self.steps: asyncio.Queue[Chunk | Exception | None] = asyncio.Queue()
        self.closed = False

    def put(self, *steps: Chunk | Exception | None) -> None:
        for step in steps:
            self.steps.put_nowait(step)

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        try:
            while (step := await self.steps.get()) is not None:
                if isinstance(step, Exception):
                    raise step
                yield step
        finally:
            self.closed = True


def chunk(index: int, text: str) -> Chunk:
    return Chunk(index, text, 1, 1, 0)


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@given(st.integers(1, 5), st.integers(1, 20), st.integers(1, 25))
def test_parts_have_every_choice_once_in_order_and_are_of_one_prompt_each(
    prompts: int, choices: int, most: int
) -> None:
    split = parts(prompts, choices, most)
    numbers = [no for first, count in split for no in range(first, first + count)]
    assert numbers == list(range(prompts * choices))
    assert all(1 <= count <= most for _, count in split)
    assert all(first // choices == (first + count - 1) // choices for first, count in split)


async def test_a_chunk_has_the_index_of_its_choice_in_the_whole_request() -> None:
    streams = [Stream(), Stream(), Stream()]
    for no, stream in enumerate(streams):
        stream.put(chunk(0, f"{no}a"), chunk(1, f"{no}b"), None)
    merged = merge([(2 * no, each.chunks()) for no, each in enumerate(streams)])
    async with aclosing(merged) as batches:
        chunks = [chunk async for batch in batches for chunk in batch]
    assert sorted((chunk.index, chunk.text) for chunk in chunks) == [
        (0, "0a"), (1, "0b"), (2, "1a"), (3, "1b"), (4, "2a"), (5, "2b"),
    ]  # fmt: skip
    assert all(each.closed for each in streams)


async def test_what_is_ready_together_is_one_batch_and_no_stream_waits_for_another() -> None:
    first, second = Stream(), Stream()
    async with aclosing(merge([(0, first.chunks()), (1, second.chunks())])) as batches:
        first.put(chunk(0, "a"))
        assert [each.text for each in await anext(batches)] == ["a"]
        first.put(chunk(0, "b"))
        second.put(chunk(0, "c"), None)
        await settled()
        assert [each.text for each in await anext(batches)] == ["b", "c"]
        first.put(chunk(0, "d"), None)
        assert [each.text for each in await anext(batches)] == ["d"]
        with pytest.raises(StopAsyncIteration):
            await anext(batches)


async def test_the_first_stream_that_fails_ends_the_others() -> None:
    first, second = Stream(), Stream()
    batches = merge([(0, first.chunks()), (1, second.chunks())])
    second.put(chunk(0, "a"))
    await anext(batches)
    first.put(InternalError("gone"))
    with pytest.raises(InternalError, match="gone"):
        await anext(batches)
    assert second.closed


async def test_closing_it_closes_every_stream() -> None:
    first, second = Stream(), Stream()
    batches = merge([(0, first.chunks()), (1, second.chunks())])
    first.put(chunk(0, "a"))
    second.put(chunk(0, "b"))
    await anext(batches)
    await batches.aclose()
    assert first.closed
    assert second.closed
