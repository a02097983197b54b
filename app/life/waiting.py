"""Waiting for one of several things."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable


async def first_of(*awaited: Awaitable[object]) -> None:
    """Wait until one is done, then cancel the other coroutines; tasks and futures continue."""
    tasks = {asyncio.ensure_future(each) for each in awaited}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks.difference(each for each in awaited if isinstance(each, asyncio.Future)):
            task.cancel()
