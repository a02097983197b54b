"""The end of a server whose engine sleeps."""

from __future__ import annotations

import asyncio
import signal

from tests.life.started import Start
from tests.support.serving import HANGS_S

ADMIN = {"authorization": "Bearer operator"}


async def test_it_does_not_wait_for_requests_that_wait_for_the_engine(start: Start) -> None:
    server = start(
        ADMIN_API_KEY="operator", SLEEPING_REQUESTS="wait", DRAIN_TIMEOUT="600", HOST="127.0.0.1"
    )
    async with await server.ready() as client:
        assert (await client.post("/sleep", headers=ADMIN, timeout=HANGS_S)).status_code == 200
        body = {"prompt": "hi"}
        waiting = asyncio.create_task(client.post("/v1/completions", json=body, timeout=HANGS_S))
        begun = asyncio.get_running_loop().time()
        while (await client.get("/health", timeout=HANGS_S)).json()["in_flight"] < 1:
            assert not waiting.done()
            assert asyncio.get_running_loop().time() - begun < HANGS_S
        server.process.send_signal(signal.SIGTERM)
        assert (await waiting).status_code == 503
    assert await server.exit_code() == 0
