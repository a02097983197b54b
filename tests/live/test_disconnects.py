"""A disconnect, in any phase, frees the request's slot in the server and in the engine."""

from __future__ import annotations

import asyncio
import os
import time

import httpx
import pytest

from tests.live.conftest import LiveServer
from tests.support.machine import allowed

pytestmark = pytest.mark.live
DISCONNECTS = int(os.environ.get("DISCONNECTS", "40"))
LONG = {
    "model": "sglang", "temperature": 0, "ignore_eos": True, "max_tokens": 4000,
    "messages": [{"role": "user", "content": "Count to a million."}],
}  # fmt: skip


async def _idle(client: httpx.AsyncClient, within_s: float) -> float:
    """Seconds until the server and the engine's scheduler have nothing to do."""
    began = time.monotonic()
    while True:
        metrics = (await client.get("/metrics")).text.splitlines()
        running = _value(metrics, "sglang:num_running_reqs{")
        in_flight = _value(metrics, "serve_in_flight_requests ")
        if running == 0 and in_flight == 0:
            return time.monotonic() - began
        assert time.monotonic() - began < allowed(within_s), f"{running=} {in_flight=}"
        await asyncio.sleep(0.02)


def _value(lines: list[str], name: str) -> float:
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


async def _disconnect_streaming(client: httpx.AsyncClient, after: int) -> None:
    """Read `after` lines, then close the connection; 0: before the first token."""
    async with client.stream("POST", "/v1/chat/completions", json=LONG | {"stream": True}) as got:
        lines = got.aiter_lines()
        for _ in range(after):
            await anext(lines)


async def _disconnect_waiting(client: httpx.AsyncClient, after_s: float) -> None:
    """Ask for a whole answer and disconnect while waiting for it."""
    try:
        async with asyncio.timeout(after_s):
            await client.post("/v1/chat/completions", json=LONG)
    except TimeoutError:
        return
    pytest.fail("4000 tokens came too soon")


async def test_disconnects_one_after_the_other_leave_nothing_running(
    live: LiveServer, record_property: pytest.RecordProperty
) -> None:
    slowest = 0.0
    async with httpx.AsyncClient(base_url=live.url, timeout=300) as observer:
        for no in range(DISCONNECTS):
            async with httpx.AsyncClient(base_url=live.url, timeout=300) as client:
                if no % 2:
                    await _disconnect_waiting(client, after_s=0.05 + 0.01 * (no % 20))
                else:
                    await _disconnect_streaming(client, after=(no // 2) % 12)
            slowest = max(slowest, await _idle(observer, within_s=1.0))
    record_property("slowest_s", slowest)
    print(f"slowest to be idle again: {slowest:.3f} s")


async def test_twenty_disconnects_at_once_leave_nothing_running(live: LiveServer) -> None:
    async def disconnect(no: int) -> None:
        async with httpx.AsyncClient(base_url=live.url, timeout=300) as client:
            body = LONG | {"stream": True, "n": 1 + no % 3}
            async with client.stream("POST", "/v1/chat/completions", json=body) as got:
                await anext(got.aiter_lines())

    await asyncio.gather(*(disconnect(no) for no in range(20)))
    async with httpx.AsyncClient(base_url=live.url, timeout=300) as observer:
        await _idle(observer, within_s=2.0)
