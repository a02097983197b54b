"""Turns pass to the work that is due first, whatever happens to those that wait."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.generation.turns import Turns


async def _passed(turns: Turns, order: list[float], due: float) -> None:
    async with turns.turn(due):
        order.append(due)
        await asyncio.sleep(0)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20))
def test_the_earliest_due_is_next(dues: list[int]) -> None:
    async def run() -> list[float]:
        turns, order = Turns(), list[float]()
        async with turns.turn(-1):
            tasks = [asyncio.create_task(_passed(turns, order, due)) for due in dues]
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(run()) == sorted(dues)


@given(st.data())
def test_one_at_a_time_and_each_that_is_not_cancelled_gets_its_turn(data: st.DataObject) -> None:
    async def run() -> None:
        turns, inside, done = Turns(), list[int](), set[int]()

        async def work(no: int) -> None:
            async with turns.turn(data.draw(st.integers(0, 5))):
                assert not inside
                inside.append(no)
                try:
                    await asyncio.sleep(0)
                finally:
                    inside.remove(no)
            done.add(no)

        tasks = [asyncio.create_task(work(no)) for no in range(8)]
        for no in data.draw(st.lists(st.integers(0, 7), max_size=8)):
            await asyncio.sleep(0)
            tasks[no].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for no, result in enumerate(results):
            assert (no in done) == (result is None)
        async with asyncio.timeout(1), turns.turn(0):  # it was given back
            pass

    asyncio.run(run())


async def test_an_error_inside_gives_the_turn_back() -> None:
    turns = Turns()
    with pytest.raises(ValueError, match="inside"):
        async with turns.turn(0):
            raise ValueError("inside")
    async with asyncio.timeout(1), turns.turn(0):
        pass
