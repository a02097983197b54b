"""An engine that gives its memory back: what its requests get meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from app.errors import Unavailable
from app.life import sleep as module
from app.lifecycle import Phase
from tests.support.scripted import ScriptedEngine
from tests.support.serving import eventually, serve

ADMIN = {"authorization": "Bearer operator"}


async def post(running: Any, path: str, **params: Any) -> Any:
    return await running.client.post(path, headers=ADMIN, params=params)


async def asleep(running: Any) -> bool:
    answer = await running.client.get("/is_sleeping", headers=ADMIN)
    sleeping: bool = answer.json()["is_sleeping"]
    return sleeping


async def test_requests_are_refused_while_the_engine_sleeps_and_served_after() -> None:
    engine = ScriptedEngine("x")
    async with serve(engine, ADMIN_API_KEY="operator") as running:
        assert not await asleep(running)
        assert (await post(running, "/sleep")).status_code == 200
        assert (await post(running, "/sleep", level=1)).status_code == 200  # it is already
        assert engine.memory.released  # type: ignore[union-attr]
        assert await asleep(running)
        refused = await running.chat()
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "engine_asleep"
        assert int(refused.headers["retry-after"]) >= 1
        for path, status in (("/readyz", 503), ("/ping", 503), ("/health_generate", 503),
                             ("/v1/models", 503), ("/livez", 200)):  # fmt: skip
            assert (await running.client.get(path)).status_code == status, path
        health = await running.client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "asleep")
        assert (await post(running, "/wake_up")).status_code == 200
        assert not engine.memory.released  # type: ignore[union-attr]
        assert (await running.chat()).status_code == 200
        assert (await running.client.get("/readyz")).status_code == 200
        assert (await post(running, "/wake_up")).status_code == 200


async def test_requests_may_wait_until_it_wakes_up() -> None:
    engine = ScriptedEngine("x")
    settings = {"ADMIN_API_KEY": "operator", "SLEEPING_REQUESTS": "wait"}
    async with serve(engine, **settings) as running:
        assert (await post(running, "/sleep")).status_code == 200
        assert (await running.client.get("/readyz")).status_code == 200
        assert (await running.client.get("/health")).json()["asleep"]
        waiting = [asyncio.create_task(running.chat()) for _ in range(20)]
        await eventually(lambda: running.gate.in_flight == 20)
        assert engine.running == 0
        assert (await running.client.get("/health_generate")).status_code == 503
        assert (await post(running, "/wake_up")).status_code == 200
        for each in waiting:
            assert (await each).status_code == 200


async def test_it_sleeps_once_its_requests_have_ended() -> None:
    go_on = asyncio.Event()
    engine = ScriptedEngine("x", go_on)
    async with serve(engine, ADMIN_API_KEY="operator") as running:
        answering = asyncio.create_task(running.chat())
        await eventually(lambda: engine.running == 1)
        late = await post(running, "/sleep", timeout=0)
        assert late.status_code == 503
        assert "still running" in late.json()["error"]["message"]
        other = asyncio.create_task(running.chat())  # it is open again
        await eventually(lambda: engine.running == 2)
        sleeping = asyncio.create_task(post(running, "/sleep", timeout=60))
        await eventually(lambda: not running.lifecycle.ready)
        assert not await asleep(running)
        go_on.set()
        assert (await answering).status_code == (await other).status_code == 200
        assert (await sleeping).status_code == 200
        assert await asleep(running)


@pytest.mark.parametrize(
    ("engine", "path", "params", "named"),
    [
        ({}, "/sleep", {"level": "2"}, "level"),
        ({}, "/sleep", {"timeout": "-1"}, "timeout"),
        ({}, "/wake_up", {"tags": "weights"}, "tags"),
        ({"serves_adapters": True}, "/sleep", {}, "LoRA"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(
    engine: dict[str, Any], path: str, params: dict[str, str], named: str
) -> None:
    async with serve(ScriptedEngine("x", **engine), ADMIN_API_KEY="operator") as running:
        answer = await post(running, path, **params)
        assert answer.status_code == 400
        assert named in answer.json()["error"]["message"]
        assert running.lifecycle.ready


async def test_an_engine_that_keeps_its_memory_says_what_to_set() -> None:
    engine = ScriptedEngine("x")
    engine.memory = None
    async with serve(engine, ADMIN_API_KEY="operator") as running:
        answer = await post(running, "/sleep")
        assert answer.status_code == 400
        assert "ENABLE_MEMORY_SAVER" in answer.json()["error"]["message"]


async def test_requests_that_wait_in_the_server_are_answered_before_it_sleeps() -> None:
    go_on = asyncio.Event()
    engine = ScriptedEngine("x", go_on)
    async with serve(engine, ADMIN_API_KEY="operator", MAX_CONCURRENCY="1") as running:
        requests = [asyncio.create_task(running.chat()) for _ in range(4)]
        await eventually(lambda: running.gate.in_flight == 4)
        sleeping = asyncio.create_task(post(running, "/sleep", timeout=60))
        await eventually(lambda: not running.lifecycle.ready)
        assert (await running.chat()).status_code == 503
        go_on.set()
        assert [(await each).status_code for each in requests] == [200] * 4
        assert (await sleeping).status_code == 200


async def test_a_body_that_arrives_while_it_falls_asleep_is_refused() -> None:
    engine = ScriptedEngine("x")
    arrive = asyncio.Event()

    async def body() -> Any:
        yield b'{"messages": [{"role": "user", '
        await arrive.wait()
        yield b'"content": "hi"}]}'

    async with serve(engine, ADMIN_API_KEY="operator") as running:
        headers = {"content-type": "application/json"}
        posting = asyncio.create_task(
            running.client.post("/v1/chat/completions", content=body(), headers=headers)
        )
        await eventually(lambda: len(running.gate.arrivals) == 1)
        assert (await post(running, "/sleep")).status_code == 200
        arrive.set()
        assert (await posting).status_code == 503


async def test_a_probe_that_generates_is_waited_for() -> None:
    go_on = asyncio.Event()
    engine = ScriptedEngine("x", go_on)
    async with serve(engine, ADMIN_API_KEY="operator") as running:
        probing = asyncio.create_task(running.client.get("/health_generate"))
        await eventually(lambda: engine.running == 1)
        sleeping = asyncio.create_task(post(running, "/sleep", timeout=60))
        await eventually(lambda: not running.lifecycle.ready)
        await asyncio.sleep(0.1)
        assert not engine.memory.released  # type: ignore[union-attr]
        go_on.set()
        assert (await probing).status_code == 200
        assert (await sleeping).status_code == 200


async def test_memory_that_could_not_be_given_back_is_resumed_by_wake_up() -> None:
    engine = ScriptedEngine("x")

    async def fails() -> None:
        raise Unavailable("no")

    async with serve(engine, ADMIN_API_KEY="operator") as running:
        engine.memory.release = fails  # type: ignore[union-attr,method-assign]
        assert (await post(running, "/sleep")).status_code == 503
        assert (await running.chat()).status_code == 503  # it may sleep
        assert (await post(running, "/wake_up")).status_code == 200
        assert (await running.chat()).status_code == 200


async def test_an_engine_that_does_not_answer_ends_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_CHANGES_S", 0.05)
    monkeypatch.setattr(module, "_ANSWERS_S", 0.05)
    engine = ScriptedEngine("x")

    async def hangs() -> bool:
        await asyncio.Event().wait()
        return True

    async with serve(engine, ADMIN_API_KEY="operator") as running:
        idle = engine.memory.is_idle  # type: ignore[union-attr]
        engine.memory.is_idle = hangs  # type: ignore[union-attr,method-assign]
        assert (await post(running, "/sleep", timeout=0)).status_code == 503
        assert (await running.chat()).status_code == 200  # it is awake
        engine.memory.is_idle = idle  # type: ignore[union-attr,method-assign]
        engine.memory.release = hangs  # type: ignore[union-attr,method-assign,assignment]
        assert (await post(running, "/sleep")).status_code == 503
        assert running.lifecycle.phase is Phase.HUNG


async def test_a_server_that_is_told_to_end_does_not_fall_asleep() -> None:
    go_on = asyncio.Event()
    engine = ScriptedEngine("x", go_on)
    settings = {"ADMIN_API_KEY": "operator", "SLEEPING_REQUESTS": "wait", "MAX_CONCURRENCY": "1"}
    async with serve(engine, **settings) as running:
        requests = [asyncio.create_task(running.chat()) for _ in range(3)]
        await eventually(lambda: running.gate.in_flight == 3)
        sleeping = asyncio.create_task(post(running, "/sleep", timeout=60))
        await eventually(lambda: running.lifecycle.closed)
        running.lifecycle.enter(Phase.DRAINING)
        assert (await sleeping).status_code == 503
        go_on.set()
        assert [(await each).status_code for each in requests] == [200] * 3
