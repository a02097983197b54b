"""The profiler: while it writes a trace the schedulers may stand still."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from app.engine.sglang.profiler import Profiler
from app.errors import InvalidRequest


async def test_it_is_busy_while_a_trace_is_written() -> None:
    called, returns = asyncio.Event(), asyncio.Event()

    async def stop() -> None:
        called.set()
        await returns.wait()

    profiler = Profiler(SimpleNamespace(stop_profile=stop))
    assert not profiler.is_busy
    running = asyncio.create_task(profiler.run(None))
    await called.wait()
    assert profiler.is_busy
    returns.set()
    await running
    assert not profiler.is_busy
    assert profiler.ended_at > 0


async def test_what_it_refuses_is_the_requests_fault() -> None:
    async def stop() -> None:
        raise RuntimeError("Profiling is not in progress.")

    profiler = Profiler(SimpleNamespace(stop_profile=stop))
    with pytest.raises(InvalidRequest, match="not in progress"):
        await profiler.run(None)
    assert not profiler.is_busy
