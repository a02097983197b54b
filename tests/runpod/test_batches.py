"""How many pieces of a stream go into one yield."""

from __future__ import annotations

import asyncio
from itertools import islice

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.runpod.batches import Batches, Growth

GROWTHS = st.builds(
    Growth,
    first=st.integers(1, 40),
    factor=st.floats(1, 10, allow_nan=False),
    most=st.integers(1, 60),
)


@pytest.mark.parametrize(
    ("growth", "sizes"),
    [
        (Growth(1, 3.0, 50), [1, 3, 9, 27, 50, 50, 50]),
        (Growth(2, 2.0, 9), [2, 4, 8, 9, 9]),
        (Growth(1, 1.5, 6), [1, 2, 3, 4, 6, 6]),
        (Growth(1, 1.0, 7), [7, 7, 7]),
        (Growth(9, 3.0, 9), [9, 9]),
        (Growth(60, 3.0, 50), [50, 50]),
    ],
    ids=["the defaults", "capped", "fractions round up", "no growth", "min is max", "min over max"],
)
def test_sizes_grow_by_the_factor_up_to_the_largest(growth: Growth, sizes: list[int]) -> None:
    assert list(islice(growth.sizes(), len(sizes))) == sizes


async def test_a_flush_delivers_the_pieces_that_are_left() -> None:
    delivered: list[list[int]] = []
    batches: Batches[int] = Batches(Growth(1, 3.0, 50), delivered.append)
    for piece in range(6):
        batches.add(piece, 1)
    batches.flush()
    batches.flush()
    assert delivered == [[0], [1, 2, 3], [4, 5]]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # they time the machine
@given(GROWTHS, st.integers(0, 300))
def test_every_piece_is_delivered_in_order_and_no_batch_is_too_large(
    growth: Growth, count: int
) -> None:
    delivered: list[list[int]] = []

    async def feed() -> None:
        batches: Batches[int] = Batches(growth, delivered.append)
        for piece in range(count):
            batches.add(piece, 1)
        batches.flush()

    asyncio.run(feed())
    assert [piece for batch in delivered for piece in batch] == list(range(count))
    assert all(1 <= len(batch) <= max(growth.most, 1) for batch in delivered)
    assert all(a <= b for a, b in zip(map(len, delivered), map(len, delivered[1:-1]), strict=False))


async def test_a_piece_waits_no_longer_than_the_patience() -> None:
    delivered: asyncio.Queue[list[str]] = asyncio.Queue()
    batches: Batches[str] = Batches(Growth(5, 1.0, 5), delivered.put_nowait, patience_s=0.02)
    batches.add("a", 1)
    batches.add("b", 1)
    assert await delivered.get() == ["a", "b"]
    batches.add("c", 1)
    assert await delivered.get() == ["c"]


async def test_a_batch_stays_below_the_largest_yield() -> None:
    delivered: list[list[str]] = []
    batches: Batches[str] = Batches(Growth(50, 1.0, 50), delivered.append, max_bytes=100)
    for piece in ("a", "b", "c"):
        batches.add(piece, 45)
    batches.flush()
    assert delivered == [["a", "b"], ["c"]]
