"""Routes that SGLang's router and benchmarks call."""

from __future__ import annotations

import asyncio

import pytest

from app.engine.base import Load
from app.life import load_reading
from app.lifecycle import Phase
from tests.support.scripted import ScriptedEngine
from tests.support.serving import eventually, serve


async def test_model_info_is_what_routers_read():
    engine = ScriptedEngine("x", model_type="llama", architectures=("LlamaForCausalLM",))
    async with serve(engine, SERVED_MODEL_NAME="llama,alias") as running:
        response = await running.client.get("/model_info")
        old = await running.client.get("/get_model_info")
    assert response.status_code == 200
    assert response.json() == old.json()
    info = response.json()
    assert info["model_path"] == info["tokenizer_path"] == "scripted"
    assert (info["served_model_name"], info["is_generation"]) == ("llama", True)
    assert (info["model_type"], info["architectures"]) == ("llama", ["LlamaForCausalLM"])
    assert info["max_model_len"] == info["context_length"] == 1000


async def test_model_info_of_an_embedding_model():
    async with serve(ScriptedEngine(embedding_size=4)) as running:
        response = await running.client.get("/model_info")
    assert response.json()["is_generation"] is False


async def test_server_info_has_the_options_and_the_state_but_no_secrets():
    engine = ScriptedEngine("x")
    engine.max_running = 8
    async with serve(engine, SERVED_MODEL_NAME="llama") as running:
        response = await running.client.get("/server_info")
        old = await running.client.get("/get_server_info")
    info = response.json()
    assert old.json().keys() == info.keys()
    assert info["api_key"] == "***"
    assert (info["model_path"], info["served_model_name"]) == ("scripted", "llama")
    assert (info["tp_size"], info["dp_size"], info["max_running_requests"]) == (1, 1, 8)
    [state] = info["internal_states"]
    assert state["effective_max_running_requests_per_dp"] == 8
    assert state["last_gen_throughput"] == 0.0


async def test_engine_options_of_any_type_are_rendered():
    engine = ScriptedEngine("x")
    engine.options = lambda: {"a": {1: {2}}, "b": float("inf"), "c": ScriptedEngine}  # type: ignore[method-assign]
    async with serve(engine) as running:
        response = await running.client.get("/server_info")
    assert response.status_code == 200
    assert response.json()["b"] is None


async def test_loads_have_both_of_sglangs_formats():
    go_on = asyncio.Event()
    async with serve(ScriptedEngine("x", go_on)) as running:
        answering = asyncio.create_task(running.chat())
        await eventually(lambda: running.engine.running == 1)
        loads = (await running.client.get("/v1/loads", params={"include": "core"})).json()
        none = (await running.client.get("/v1/loads", params={"dp_rank": 1})).json()
        wrong = await running.client.get("/v1/loads", params={"dp_rank": "x"})
        short = (await running.client.get("/get_load")).json()
        go_on.set()
        await answering
    [rank] = loads["loads"]
    assert {"timestamp", "version", "accelerator", "num_accelerators"} <= loads.keys()
    assert (rank["dp_rank"], rank["num_running_reqs"], rank["num_waiting_reqs"]) == (0, 1, 0)
    assert (rank["num_used_tokens"], rank["max_total_num_tokens"]) == (16, 4096)
    assert short == [{"dp_rank": 0, "num_reqs": 1, "num_waiting_reqs": 0, "num_tokens": 16}]
    assert none["loads"] == []
    assert wrong.status_code == 400


class Mute(ScriptedEngine):
    """Says its load only while `says` is set."""

    def __init__(self) -> None:
        super().__init__("x")
        self.asked = 0
        self.says = asyncio.Event()
        self.says.set()

    async def loads(self) -> list[Load]:
        self.asked += 1
        await self.says.wait()
        return await super().loads()


async def test_an_engine_that_does_not_say_its_load_is_busy_and_is_asked_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(load_reading, "LONGEST_S", 0.05)
    engine = Mute()
    async with serve(engine) as running:
        engine.asked = 0  # the start has asked, too
        engine.says.clear()
        for _ in range(2):
            paths = ["/v1/loads", "/get_load", "/server_info", "/get_server_info"] * 4
            answers = await asyncio.gather(*map(running.client.get, paths))
            for answer in answers:
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
                assert answer.json()["error"]["code"] == "server_is_overloaded"
        assert engine.asked == 1
        engine.says.set()
        for path in paths:
            assert (await running.client.get(path)).status_code == 200


async def test_a_client_that_leaves_does_not_end_the_reading_of_the_others() -> None:
    engine = Mute()
    async with serve(engine) as running:
        engine.asked = 0
        engine.says.clear()
        leaving, staying = (asyncio.create_task(running.serving.host.loads()) for _ in range(2))
        await eventually(lambda: engine.asked == 1)
        leaving.cancel()
        await asyncio.wait({leaving})
        engine.says.set()
        assert [load.replica for load in await staying] == [0]
        assert engine.asked == 1


@pytest.mark.parametrize(
    "path", ["/model_info", "/server_info", "/v1/loads", "/get_load", "/health_generate"]
)
async def test_information_is_503_before_the_model_is_ready(path):
    async with serve(None) as running:
        response = await running.client.get(path)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "model_not_ready"
    assert response.headers["retry-after"]


async def test_there_is_no_version_route_as_in_sglang():
    async with serve(ScriptedEngine("x")) as running:
        assert (await running.client.get("/version")).status_code == 404


async def test_information_is_available_in_a_drain_but_not_after_the_engine_was_lost():
    async with serve(ScriptedEngine("x")) as running:
        running.lifecycle.enter(Phase.DRAINING)
        assert (await running.client.get("/get_load")).status_code == 200
        assert (await running.client.get("/health_generate")).status_code == 503
        running.lifecycle.enter(Phase.DEAD)
        assert (await running.client.get("/get_load")).status_code == 503
