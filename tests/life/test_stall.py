"""An engine that hangs ends the server, and its clients are told."""

from __future__ import annotations

import asyncio

from app.lifecycle import Phase
from tests.life.started import Start
from tests.support import sse
from tests.support.scripted import ScriptedEngine
from tests.support.serving import HANGS_S, eventually, serve

HANGS = '{"token_s": 3600}'


async def test_clients_get_an_error_and_the_server_ends_when_the_engine_hangs(start: Start) -> None:
    server = start(ENGINE_ARGS=HANGS, ENGINE_STALL_TIMEOUT="0.5")
    async with await server.ready() as client:
        body = {"prompt": "one two", "stream": True}
        answer = await client.post("/v1/completions", json=body, timeout=HANGS_S)
    *_, error, done = sse.frames(answer.text)
    assert done == "[DONE]"
    assert error["error"]["code"] == "engine_dead"
    assert "hangs" in error["error"]["message"]
    assert await server.exit_code() == 73
    assert server.folders == []


async def test_liveness_fails_while_the_engine_hangs() -> None:
    engine = ScriptedEngine("hi")
    async with serve(engine, ENGINE_STALL_TIMEOUT="1") as running:
        assert (await running.client.get("/livez")).status_code == 200
        engine.silent_s = lambda: 2.0  # type: ignore[method-assign]
        assert (await running.client.get("/livez")).json()["status"] == "dead"
        await eventually(lambda: running.lifecycle.phase is Phase.HUNG)
        assert (await running.client.get("/livez")).status_code == 503
        assert (await running.client.get("/health")).json()["phase"] == "hung"


async def test_without_a_bound_an_engine_may_be_silent_for_ever() -> None:
    engine = ScriptedEngine("hi")
    engine.silent_s = lambda: 1e6  # type: ignore[method-assign]
    async with serve(engine, ENGINE_STALL_TIMEOUT="0") as running:
        await asyncio.sleep(0.2)
        assert (await running.client.get("/livez")).status_code == 200
        assert running.lifecycle.phase is Phase.READY
