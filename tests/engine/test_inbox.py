"""Chunks that wait for their request."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.base import Chunk
from app.engine.inbox import Inbox, merged


def _chunk(text: str, index: int = 0, **more: object) -> Chunk:
    return Chunk(index, text, 3, len(text), 1, **more)  # type: ignore[arg-type]


async def test_chunks_that_came_before_the_consumer_are_taken_as_one() -> None:
    inbox = Inbox()
    inbox.put(_chunk("a", ids=[1]))
    inbox.put(_chunk("bc", ids=[2, 3], finish="stop", matched="x"))
    (chunk,) = await inbox.take()
    assert (chunk.text, list(chunk.ids)) == ("abc", [1, 2, 3])
    assert (chunk.finish, chunk.matched, chunk.completion_tokens) == ("stop", "x", 2)


async def test_a_consumer_that_waits_is_woken_and_not_before() -> None:
    inbox = Inbox()
    taking = asyncio.create_task(inbox.take())
    await asyncio.sleep(0)
    inbox.put(_chunk("a"))
    await asyncio.sleep(0)
    assert not taking.done()
    inbox.wake()
    assert [chunk.text for chunk in await taking] == ["a"]


async def test_an_error_comes_after_the_chunks_before_it() -> None:
    inbox = Inbox()
    inbox.put(_chunk("a"))
    inbox.fail(ValueError("gone"))
    assert [chunk.text for chunk in await inbox.take()] == ["a"]
    with pytest.raises(ValueError, match="gone"):
        await inbox.take()


@given(st.lists(st.tuples(st.integers(0, 3), st.text(max_size=3)), min_size=1))
def test_merging_loses_and_reorders_nothing(parts: list[tuple[int, str]]) -> None:
    chunks = [_chunk(text, index, ids=[no]) for no, (index, text) in enumerate(parts)]
    together = merged(chunks)
    assert len({chunk.index for chunk in together}) == len(together)
    for chunk in together:
        own = [each for each in chunks if each.index == chunk.index]
        assert chunk.text == "".join(each.text for each in own)
        assert list(chunk.ids) == [id for each in own for id in each.ids]
