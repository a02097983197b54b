"""What waits for a request, and how much of it goes out together."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.base import Chunk
from app.engine.inbox import Inbox, merged
from app.engine.pace import Pace


def _chunk(text: str, index: int = 0, **more: object) -> Chunk:
    return Chunk(index, text, 3, len(text), 1, **more)  # type: ignore[arg-type]


async def test_what_came_before_the_consumer_is_taken_in_one_piece() -> None:
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


async def test_an_error_comes_after_what_was_said_before_it() -> None:
    inbox = Inbox()
    inbox.put(_chunk("a"))
    inbox.fail(ValueError("gone"))
    assert [chunk.text for chunk in await inbox.take()] == ["a"]
    with pytest.raises(ValueError, match="gone"):
        await inbox.take()


@given(st.lists(st.tuples(st.integers(0, 3), st.text(max_size=3)), min_size=1))
def test_merging_loses_and_reorders_nothing(said: list[tuple[int, str]]) -> None:
    chunks = [_chunk(text, index, ids=[no]) for no, (index, text) in enumerate(said)]
    together = merged(chunks)
    assert len({chunk.index for chunk in together}) == len(together)
    for chunk in together:
        own = [each for each in chunks if each.index == chunk.index]
        assert chunk.text == "".join(each.text for each in own)
        assert list(chunk.ids) == [id for each in own for id in each.ids]


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class _Streams:
    """Eight consumers, and an engine that keeps the event loop busy for a part of each step."""

    def __init__(self, widest: int) -> None:
        self.clock = _Clock()
        self.pace = Pace(asyncio.get_running_loop(), widest, clock=self.clock)
        self.inboxes = [Inbox(phase) for phase in range(8)]
        self.frames = 0
        self._consumers = [asyncio.create_task(self._consume(each)) for each in self.inboxes]

    async def _consume(self, inbox: Inbox) -> None:
        while True:
            await inbox.take()
            self.frames += 1

    async def step(self, *, busy: float) -> int:
        """100 ms; says how many frames it made."""
        before = self.frames
        self.pace.begin()
        for inbox in self.inboxes:
            inbox.put(_chunk("x"))
            self.pace.put(inbox)
        self.clock.now += 0.1 * busy
        self.pace.end()
        for _ in range(3):
            await asyncio.sleep(0)
        self.clock.now += 0.1 * (1 - busy)
        return self.frames - before

    async def close(self) -> None:
        self.pace.release()
        for consumer in self._consumers:
            consumer.cancel()
        await asyncio.gather(*self._consumers, return_exceptions=True)


async def test_streams_grow_coarser_while_the_loop_is_busy_and_finer_afterwards() -> None:
    streams = _Streams(widest=4)
    await asyncio.sleep(0)
    for _ in range(30):
        await streams.step(busy=0.9)
    assert streams.pace.stride == 4
    # A quarter of them at each step, not all at every fourth.
    assert [await streams.step(busy=0.9) for _ in range(4)] == [2, 2, 2, 2]
    for _ in range(30):
        await streams.step(busy=0.1)
    assert streams.pace.stride == 1
    assert await streams.step(busy=0.1) == 8
    await streams.close()


async def test_a_stream_is_counted_by_the_steps_that_it_has_a_part_in() -> None:
    """As where two replicas of the engine speak in turn, or prefill and decode alternate."""
    pace = Pace(asyncio.get_running_loop(), 2)
    pace.stride = 2
    inboxes = [Inbox(phase) for phase in range(4)]
    frames = [0] * 4

    async def consume(no: int) -> None:
        while True:
            await inboxes[no].take()
            frames[no] += 1

    consumers = [asyncio.create_task(consume(no)) for no in range(4)]
    for step in range(16):
        await asyncio.sleep(0)
        pace.begin()
        for no in (0, 1) if step % 2 else (2, 3):
            for index in range(2):
                inboxes[no].put(_chunk("x", index))
                pace.put(inboxes[no])
    await asyncio.sleep(0)
    assert frames == [4, 4, 4, 4]
    pace.release()
    for consumer in consumers:
        consumer.cancel()


async def test_a_widest_stride_of_one_never_holds_anything_back() -> None:
    streams = _Streams(widest=1)
    await asyncio.sleep(0)
    assert [await streams.step(busy=1.0) for _ in range(20)] == [8] * 20
    await streams.close()


async def test_what_is_held_back_leaves_even_if_the_engine_says_nothing_more() -> None:
    pace = Pace(asyncio.get_running_loop(), 4)
    pace.stride = 4
    inbox = Inbox(1)
    pace.begin()
    pace.begin()
    inbox.put(_chunk("x"))
    pace.put(inbox)
    assert [chunk.text for chunk in await asyncio.wait_for(inbox.take(), 5)] == ["x"]
    taking = asyncio.create_task(inbox.take())
    await asyncio.sleep(0)
    inbox.put(_chunk("y"))
    pace.put(inbox)
    assert not taking.done()
    assert [chunk.text for chunk in await asyncio.wait_for(taking, 5)] == ["y"]
