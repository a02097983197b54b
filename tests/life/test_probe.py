"""The health check that generates, directly and as `/health_generate`."""

from __future__ import annotations

import asyncio

import pytest

from app.errors import InternalError
from app.life.probe import Probe
from tests.support.scripted import ScriptedEngine
from tests.support.serving import eventually, serve


async def test_health_generate_really_generates():
    engine = ScriptedEngine("x")
    async with serve(engine) as running:
        response = await running.client.get("/health_generate")
    assert response.status_code == 200
    [(prompt, sampling, _, _)] = engine.calls
    assert (prompt, sampling.max_tokens) == ([0], 1)


async def test_health_generate_embeds_with_an_embedding_model():
    engine = ScriptedEngine(embedding_size=4)
    async with serve(engine) as running:
        assert (await running.client.get("/health_generate")).status_code == 200
    assert engine.embedded == [([[0]], None)]


@pytest.mark.parametrize("error", [InternalError("broken"), RuntimeError("secret detail")])
async def test_health_generate_is_503_if_generating_fails(error):
    async with serve(ScriptedEngine(error)) as running:
        response = await running.client.get("/health_generate")
    assert response.status_code == 503
    assert "secret" not in response.text


async def test_concurrent_calls_of_health_generate_share_one_generation():
    go_on = asyncio.Event()
    engine = ScriptedEngine(go_on, "x")
    async with serve(engine) as running:
        calls = [asyncio.create_task(running.client.get("/health_generate")) for _ in range(20)]
        await eventually(lambda: running.serving.probe._waiting == 20)
        go_on.set()
        assert {(await each).status_code for each in calls} == {200}
        assert len(engine.calls) == 1
        assert (await running.client.get("/health_generate")).status_code == 200
    assert len(engine.calls) == 2


async def test_a_probe_without_callers_is_cancelled():
    engine = ScriptedEngine(asyncio.Event())
    async with serve(engine) as running:
        checking = asyncio.create_task(running.serving.probe.check())
        await eventually(lambda: engine.running == 1)
        checking.cancel()
        await eventually(lambda: engine.running == 0)


async def test_the_probe_distinguishes_a_stuck_engine_from_a_busy_one():
    engine = ScriptedEngine(asyncio.Event())
    silent = [True]
    began = asyncio.get_running_loop().time()
    engine.silent_s = lambda: asyncio.get_running_loop().time() - began if silent[0] else 0.0  # type: ignore[method-assign]
    async with serve(engine) as running:
        probe = Probe(running.serving.host, running.lifecycle, timeout_s=1.5)
        with pytest.raises(Exception, match="no token within"):
            await probe.check()
        silent[0] = False
        await probe.check()
    assert engine.running == 0
