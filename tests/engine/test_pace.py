"""How many steps of the engine share a frame."""

from __future__ import annotations

import asyncio

from app.engine.base import Chunk
from app.engine.inbox import Inbox
from app.engine.pace import Pace


def _chunk(text: str, index: int = 0) -> Chunk:
    return Chunk(index, text, 3, len(text), 1)


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
        """A step of 100 ms; returns how many frames it made."""
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


async def test_only_steps_with_a_chunk_for_a_stream_count() -> None:
    """As when two replicas of the engine answer in turn, or prefill and decode alternate."""
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


async def test_held_back_chunks_are_delivered_even_if_no_step_follows() -> None:
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
