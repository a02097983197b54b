"""A store with many responses is as quick as an empty one, and takes no memory of the server.

STORE_MANY=100000 pytest tests/store/test_many.py -s        as in the figures
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Iterable

import psutil
import pytest

from app.store.records import Kept
from tests.store.conftest import Opening
from tests.support.machine import allowed

MANY = int(os.environ.get("STORE_MANY", "3000"))
LINKS = 20
BODY = b"x" * 2_000
AT_A_TIME = 50
pytestmark = pytest.mark.timeout(1800)


def _kept(no: int, parent: str | None) -> Kept:
    return Kept(
        id=f"resp_{no:032x}", status="completed", head=BODY, output=BODY, tail=b"]}",
        input=b"x" * 200, items=2, parent=parent,
    )  # fmt: skip


async def test_a_chain_is_found_in_milliseconds_among_many_responses(
    open_store: Opening, owner: str
) -> None:
    store = open_store(most_responses=10**6, most_bytes=10**10)
    process = psutil.Process()

    async def conversation(first: int) -> None:
        parent = None
        for no in range(first, first + LINKS):
            await store.put(owner, _kept(no, parent))
            parent = f"resp_{no:032x}"

    async def milliseconds(lasts: Iterable[int]) -> float:
        """The median of a chain's time."""
        times = []
        for last in lasts:
            began = time.perf_counter()
            found = await store.chain(owner, f"resp_{last:032x}", most_bytes=10**7, most_items=999)
            times.append(time.perf_counter() - began)
            assert found is not None
            assert len(found[1]) == LINKS
        return statistics.median(times) * 1e3

    await conversation(10**9)
    alone_ms = await milliseconds([10**9 + LINKS - 1] * 50)
    resident = process.memory_info().rss
    began = time.monotonic()
    for first in range(0, MANY, LINKS * AT_A_TIME):
        await asyncio.gather(*[conversation(first + LINKS * each) for each in range(AT_A_TIME)])
    written_s = time.monotonic() - began
    grown = process.memory_info().rss - resident
    among_ms = await milliseconds(range(LINKS - 1, MANY, max(LINKS, MANY // 200 // LINKS * LINKS)))
    print(
        f"\n{MANY} responses: {MANY / written_s:.0f} written a second; a chain of {LINKS} in "
        f"{among_ms:.1f} ms, {alone_ms:.1f} in an empty store; {grown / 2**20:.0f} MB grown"
    )
    # Guards against a search of the whole table, which takes a hundred.
    assert among_ms < 2 * alone_ms + allowed(10)
    assert grown < 100 * 2**20
