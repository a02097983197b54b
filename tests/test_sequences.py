"""Room in the engine is shared by requests, in sequences: nothing is lost, nothing starves."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from app.sequences import Sequences, Share


async def _hold(share: Share, count: int, until: asyncio.Event, log: list[str], name: str) -> None:
    async with share.room(count):
        log.append(name)
        await until.wait()


async def test_one_request_leaves_room_for_others() -> None:
    sequences, end, log = Sequences(8), asyncio.Event(), list[str]()
    greedy = sequences.of_one_request()
    tasks = [asyncio.create_task(_hold(greedy, 1, end, log, "greedy")) for _ in range(20)]
    await asyncio.sleep(0)
    assert log == ["greedy"] * 2  # a quarter
    tasks.append(asyncio.create_task(_hold(sequences.of_one_request(), 1, end, log, "other")))
    await asyncio.sleep(0)
    assert log[-1] == "other"
    end.set()
    await asyncio.gather(*tasks)
    assert log.count("greedy") == 20


async def test_the_request_that_has_the_fewest_is_next() -> None:
    sequences, log = Sequences(4, share=3), list[str]()
    ends = [asyncio.Event() for _ in range(8)]
    first, second = sequences.of_one_request(), sequences.of_one_request()
    tasks = [asyncio.create_task(_hold(first, 1, ends[no], log, f"first {no}")) for no in range(5)]
    await asyncio.sleep(0)
    tasks += [
        asyncio.create_task(_hold(second, 1, ends[5 + no], log, f"second {no}")) for no in range(3)
    ]
    await asyncio.sleep(0)
    assert log == ["first 0", "first 1", "first 2", "second 0"]
    ends[0].set()
    await asyncio.sleep(0.01)
    assert log[4:] == ["second 1"]
    for end in ends:
        end.set()
    await asyncio.gather(*tasks)


async def test_a_request_waits_only_while_it_has_nothing_in_the_engine() -> None:
    sequences, end, log = Sequences(4, share=3), asyncio.Event(), list[str]()
    first, second = sequences.of_one_request(), sequences.of_one_request()
    tasks = [asyncio.create_task(_hold(first, 3, end, log, "first")) for _ in range(3)]
    await asyncio.sleep(0)
    assert sequences.waiting_requests == 0  # it has a part, though more of it waits
    tasks += [asyncio.create_task(_hold(second, 2, end, log, "second")) for _ in range(2)]
    await asyncio.sleep(0)
    assert sequences.waiting_requests == 1
    for task in tasks[3:]:
        task.cancel()
    await asyncio.wait(tasks[3:])
    assert sequences.waiting_requests == 0
    end.set()
    await asyncio.gather(*tasks[:3])


@given(st.data())
def test_whatever_is_cancelled_the_room_comes_back_and_no_request_starves(
    data: st.DataObject,
) -> None:
    async def run() -> None:
        capacity = data.draw(st.integers(1, 6))
        sequences = Sequences(capacity, data.draw(st.integers(1, 6)))
        shares = [sequences.of_one_request() for _ in range(4)]
        held, done = 0, 0

        async def prompt(share: Share, count: int, steps: int) -> None:
            nonlocal held, done
            async with share.room(count):
                held += count
                assert held <= capacity
                assert share.held <= sequences.share
                try:
                    for _ in range(steps):
                        await asyncio.sleep(0)
                finally:
                    held -= count
            done += 1

        tasks = []
        for _ in range(data.draw(st.integers(1, 15))):
            share = data.draw(st.sampled_from(shares))
            count = data.draw(st.integers(1, sequences.share))
            work = prompt(share, count, data.draw(st.integers(0, 3)))
            tasks.append(asyncio.create_task(work))
            if data.draw(st.booleans()):
                await asyncio.sleep(0)
            if data.draw(st.booleans()):
                data.draw(st.sampled_from(tasks)).cancel()
        async with asyncio.timeout(10):
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert done == sum(result is None for result in results)
        assert held == 0
        assert sequences.free == capacity
        assert not sequences.waiting

    asyncio.run(run())
