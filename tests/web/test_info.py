"""What SGLang's router and benchmarks ask, and what only the operator may do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from app.errors import ConfigError, InternalError
from app.life.probe import Probe
from app.lifecycle import Phase
from app.settings.load import load
from tests.support.scripted import ScriptedEngine
from tests.support.serving import eventually, serve
from tests.support.sse import frames

ADMIN = {"authorization": "Bearer operator"}
USER = {"authorization": "Bearer user"}


# -- what it is and how busy -------------------------------------------------------------------


async def test_model_info_is_what_routers_read():
    engine = ScriptedEngine("x", model_type="llama", architectures=("LlamaForCausalLM",))
    async with serve(engine, SERVED_MODEL_NAME="llama,alias") as running:
        response = await running.client.get("/model_info")
        old = await running.client.get("/get_model_info")
    assert response.status_code == 200
    assert response.json() == old.json()
    found = response.json()
    assert found["model_path"] == found["tokenizer_path"] == "scripted"
    assert (found["served_model_name"], found["is_generation"]) == ("llama", True)
    assert (found["model_type"], found["architectures"]) == ("llama", ["LlamaForCausalLM"])
    assert found["max_model_len"] == found["context_length"] == 1000


async def test_model_info_of_an_embedding_model():
    async with serve(ScriptedEngine(embedding_size=4)) as running:
        response = await running.client.get("/model_info")
    assert response.json()["is_generation"] is False


async def test_server_info_has_the_options_and_the_state_but_no_secrets():
    async with serve(ScriptedEngine("x"), SERVED_MODEL_NAME="llama") as running:
        response = await running.client.get("/server_info")
        old = await running.client.get("/get_server_info")
    found = response.json()
    assert old.json().keys() == found.keys()
    assert found["api_key"] == "***"
    assert (found["model_path"], found["served_model_name"]) == ("scripted", "llama")
    assert (found["tp_size"], found["dp_size"], found["max_running_requests"]) == (1, 1, 8)
    [state] = found["internal_states"]
    assert state["effective_max_running_requests_per_dp"] == 8
    assert state["last_gen_throughput"] == 0.0


async def test_options_of_any_kind_can_be_told():
    engine = ScriptedEngine("x")
    engine.options = lambda: {"a": {1: {2}}, "b": float("inf"), "c": ScriptedEngine}  # type: ignore[method-assign]
    async with serve(engine) as running:
        response = await running.client.get("/server_info")
    assert response.status_code == 200
    assert response.json()["b"] is None


async def test_loads_in_both_of_sglangs_shapes():
    go_on = asyncio.Event()
    async with serve(ScriptedEngine("x", go_on)) as running:
        asked = asyncio.create_task(running.chat())
        await eventually(lambda: running.engine.running == 1)
        loads = (await running.client.get("/v1/loads", params={"include": "core"})).json()
        none = (await running.client.get("/v1/loads", params={"dp_rank": 1})).json()
        wrong = await running.client.get("/v1/loads", params={"dp_rank": "x"})
        short = (await running.client.get("/get_load")).json()
        go_on.set()
        await asked
    [rank] = loads["loads"]
    assert {"timestamp", "version", "accelerator", "num_accelerators"} <= loads.keys()
    assert (rank["dp_rank"], rank["num_running_reqs"], rank["num_waiting_reqs"]) == (0, 1, 0)
    assert (rank["num_used_tokens"], rank["max_total_num_tokens"]) == (16, 4096)
    assert short == [{"dp_rank": 0, "num_reqs": 1, "num_waiting_reqs": 0, "num_tokens": 16}]
    assert none["loads"] == []
    assert wrong.status_code == 400


@pytest.mark.parametrize(
    "path", ["/model_info", "/server_info", "/v1/loads", "/get_load", "/health_generate"]
)
async def test_nothing_is_known_before_the_model_is_ready(path):
    async with serve(None) as running:
        response = await running.client.get(path)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "model_not_ready"
    assert response.headers["retry-after"]


async def test_the_model_list_says_what_benchmarks_look_for():
    async with serve(ScriptedEngine("x"), SERVED_MODEL_NAME="llama,alias") as running:
        first, second = (await running.client.get("/v1/models")).json()["data"]
    assert (first["id"], first["owned_by"], first["max_model_len"]) == ("llama", "sglang", 1000)
    assert (second["id"], second["root"]) == ("alias", "llama")


async def test_no_version_is_shown_where_sglang_shows_none():
    async with serve(ScriptedEngine("x")) as running:
        assert (await running.client.get("/version")).status_code == 404


# -- /health_generate --------------------------------------------------------------------------


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
async def test_health_generate_is_503_if_that_fails(error):
    async with serve(ScriptedEngine(error)) as running:
        response = await running.client.get("/health_generate")
    assert response.status_code == 503
    assert "secret" not in response.text


async def test_health_generate_does_not_pile_up():
    go_on = asyncio.Event()
    engine = ScriptedEngine(go_on, "x")
    async with serve(engine) as running:
        asked = [asyncio.create_task(running.client.get("/health_generate")) for _ in range(20)]
        await eventually(lambda: running.serving.probe._waiting == 20)
        go_on.set()
        assert {(await each).status_code for each in asked} == {200}
        assert len(engine.calls) == 1
        assert (await running.client.get("/health_generate")).status_code == 200
    assert len(engine.calls) == 2


async def test_a_probe_that_nobody_waits_for_ends():
    engine = ScriptedEngine(asyncio.Event())
    async with serve(engine) as running:
        asked = asyncio.create_task(running.serving.probe.check())
        await eventually(lambda: engine.running == 1)
        asked.cancel()
        await eventually(lambda: engine.running == 0)


async def test_a_stuck_engine_is_told_from_a_busy_one():
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


# -- the operator's routes ---------------------------------------------------------------------

ROUTES = [
    ("POST", "/flush_cache"), ("GET", "/flush_cache"), ("POST", "/abort_request"),
    ("POST", "/start_profile"), ("GET", "/start_profile"), ("POST", "/stop_profile"),
    ("GET", "/stop_profile"),
]  # fmt: skip


async def statuses(running: Any, headers: dict[str, str]) -> Sequence[int]:
    body = {"abort_all": True}
    return [
        (
            await running.client.request(
                method, path, headers=headers, json=body if path == "/abort_request" else None
            )
        ).status_code
        for method, path in ROUTES
    ]


async def test_without_an_admin_key_there_are_no_such_routes():
    async with serve(ScriptedEngine("x"), API_KEY="user") as running:
        assert set(await statuses(running, USER)) == {404}
        response = await running.client.post("/flush_cache", headers=USER)
    assert response.json()["error"]["code"] == "unknown_url"


@pytest.mark.parametrize("given", [{}, {"API_KEY": "user"}])
async def test_only_the_admin_key_opens_them(given):
    engine = ScriptedEngine("x")
    async with serve(engine, ADMIN_API_KEY="operator,second", **given) as running:
        for headers in ({}, USER, {"authorization": "Bearer"}, {"x-api-key": "operato"}):
            assert set(await statuses(running, headers)) == {401}
        assert not engine.flushed
        assert not engine.profiled
        assert set(await statuses(running, ADMIN)) == {200}
        assert set(await statuses(running, {"x-api-key": "second"})) == {200}


async def test_the_admin_key_opens_the_api_too():
    async with serve(ScriptedEngine("x"), API_KEY="user", ADMIN_API_KEY="operator") as running:
        for headers, status in ((ADMIN, 200), (USER, 200), ({}, 401)):
            assert (await running.client.get("/v1/models", headers=headers)).status_code == status


async def test_the_api_stays_open_with_an_admin_key_alone():
    async with serve(ScriptedEngine("x"), ADMIN_API_KEY="operator") as running:
        assert (await running.chat()).status_code == 200


@pytest.mark.parametrize(
    "given", [{"ADMIN_API_KEY": '["a", ""]'}, {"ADMIN_API_KEY": "a", "API_KEY": "b,a"}]
)
def test_keys_that_would_open_too_much_stop_the_start(given):
    with pytest.raises(ConfigError):
        load({}, given)


async def test_the_cache_is_flushed_once_nobody_is_inside():
    go_on = asyncio.Event()
    engine = ScriptedEngine("x", go_on)
    async with serve(engine, ADMIN_API_KEY="operator") as running:
        asked = asyncio.create_task(running.chat())
        await eventually(lambda: engine.running == 1)
        refused = await running.client.post("/flush_cache", headers=ADMIN)
        assert refused.status_code == 400
        flushing = asyncio.create_task(
            running.client.post("/flush_cache", headers=ADMIN, params={"timeout": 60.0})
        )
        await asyncio.sleep(0.05)
        go_on.set()
        assert (await flushing).status_code == 200
        assert (await asked).status_code == 200
        for timeout in ("nan", "-1", "x", "1e9"):
            wrong = await running.client.post(
                "/flush_cache", headers=ADMIN, params={"timeout": timeout}
            )
            assert wrong.status_code == 400
    assert engine.flushed == 1


@pytest.mark.parametrize("by", ["X-Request-ID", "the answer's id"])
@pytest.mark.parametrize("stream", [True, False])
async def test_one_request_is_aborted(by, stream):
    engine = ScriptedEngine("x", asyncio.Event())
    async with serve(engine, ADMIN_API_KEY="operator") as running:
        body = {"text": "a", "stream": stream}
        asked, other = (
            asyncio.create_task(
                running.client.post("/generate", json=body, headers={"x-request-id": id})
            )
            for id in ("mine", "other")
        )
        await eventually(lambda: engine.running == 2)
        rid = "mine" if by == "X-Request-ID" else engine.calls[0][2]
        none = await running.client.post("/abort_request", json={"rid": "min"}, headers=ADMIN)
        one = await running.client.post("/abort_request", json={"rid": rid}, headers=ADMIN)
        response = await asked
        assert not other.done()
        rest = await running.client.post("/abort_request", json={"abort_all": True}, headers=ADMIN)
        await other
        await eventually(lambda: engine.running == 0)
    assert [each.json() for each in (none, one, rest)] == [{"aborted": n} for n in (0, 1, 1)]
    if stream:
        first, error, done = frames(response.text)
        assert (first["text"], done) == ("x", "[DONE]")
    else:
        assert (response.status_code, response.headers["x-should-retry"]) == (503, "false")
        error = response.json()
    assert error["error"]["code"] == "request_aborted"
    assert engine.aborted == 2


@pytest.mark.parametrize("body", ["", "{}", '{"rid": 5}', '{"rid": ""}', "[]", "no"])
async def test_an_abort_must_say_what(body):
    async with serve(ScriptedEngine("x"), ADMIN_API_KEY="operator") as running:
        response = await running.client.post("/abort_request", content=body, headers=ADMIN)
    assert response.status_code == 400


async def test_the_profiler_takes_only_what_is_listed():
    engine = ScriptedEngine("x")
    async with serve(engine, ADMIN_API_KEY="operator") as running:

        async def start(**body: Any) -> int:
            response = await running.client.post("/start_profile", json=body, headers=ADMIN)
            return response.status_code

        options = {"num_steps": 5, "activities": ["CPU"], "with_stack": True}
        assert await start(**options, profile_by_stage=False, profile_stages=None) == 200
        assert await start(output_dir="/etc") == 400
        assert await start(profile_prefix="../x") == 400
        assert await start(num_steps=0) == 400
        assert await start(activities=["RPD"]) == 400
        assert (await running.client.get("/start_profile", headers=ADMIN)).status_code == 200
        assert (await running.client.get("/stop_profile", headers=ADMIN)).status_code == 200
    assert engine.profiled == [options, {}, None]


async def test_the_operators_bodies_are_bounded():
    given = {"ADMIN_API_KEY": "operator", "MAX_BODY_BYTES": "1024"}
    async with serve(ScriptedEngine("x"), **given) as running:
        response = await running.client.post("/abort_request", content=b" " * 2000, headers=ADMIN)
    assert response.status_code == 413


async def test_information_is_given_in_a_drain_but_not_after_the_end():
    async with serve(ScriptedEngine("x")) as running:
        running.lifecycle.enter(Phase.DRAINING)
        assert (await running.client.get("/get_load")).status_code == 200
        assert (await running.client.get("/health_generate")).status_code == 503
        running.lifecycle.enter(Phase.DEAD)
        assert (await running.client.get("/get_load")).status_code == 503
