"""Routes for the operator: their key, the cache, aborts, the profiler."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from app.errors import ConfigError
from app.settings.load import load
from tests.support.scripted import ScriptedEngine
from tests.support.serving import eventually, serve
from tests.support.sse import frames

ADMIN = {"authorization": "Bearer operator"}


USER = {"authorization": "Bearer user"}


ROUTES = [
    ("POST", "/flush_cache"), ("GET", "/flush_cache"), ("POST", "/abort_request"),
    ("POST", "/start_profile"), ("GET", "/start_profile"), ("POST", "/stop_profile"),
    ("GET", "/stop_profile"), ("POST", "/sleep"), ("POST", "/wake_up"), ("GET", "/is_sleeping"),
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


async def test_without_an_admin_key_the_routes_do_not_exist():
    async with serve(ScriptedEngine("x"), API_KEY="user") as running:
        assert set(await statuses(running, USER)) == {404}
        response = await running.client.post("/flush_cache", headers=USER)
    assert response.json()["error"]["code"] == "unknown_url"


@pytest.mark.parametrize("settings", [{}, {"API_KEY": "user"}])
async def test_only_the_admin_key_opens_them(settings):
    engine = ScriptedEngine("x")
    async with serve(engine, ADMIN_API_KEY="operator,second", **settings) as running:
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
    "settings", [{"ADMIN_API_KEY": '["a", ""]'}, {"ADMIN_API_KEY": "a", "API_KEY": "b,a"}]
)
def test_keys_that_would_open_too_much_stop_the_start(settings):
    with pytest.raises(ConfigError):
        load({}, settings)


async def test_the_cache_is_flushed_once_no_request_is_in_flight():
    go_on = asyncio.Event()
    engine = ScriptedEngine("x", go_on)
    async with serve(engine, ADMIN_API_KEY="operator") as running:
        answering = asyncio.create_task(running.chat())
        await eventually(lambda: engine.running == 1)
        refused = await running.client.post("/flush_cache", headers=ADMIN)
        assert refused.status_code == 400
        flushing = asyncio.create_task(
            running.client.post("/flush_cache", headers=ADMIN, params={"timeout": 60.0})
        )
        await asyncio.sleep(0.05)
        go_on.set()
        assert (await flushing).status_code == 200
        assert (await answering).status_code == 200
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
        answering, other = (
            asyncio.create_task(
                running.client.post("/generate", json=body, headers={"x-request-id": id})
            )
            for id in ("mine", "other")
        )
        await eventually(lambda: engine.running == 2)
        rid = "mine" if by == "X-Request-ID" else engine.calls[0][2]
        none = await running.client.post("/abort_request", json={"rid": "min"}, headers=ADMIN)
        one = await running.client.post("/abort_request", json={"rid": rid}, headers=ADMIN)
        response = await answering
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
async def test_an_abort_must_name_a_request_or_all(body):
    async with serve(ScriptedEngine("x"), ADMIN_API_KEY="operator") as running:
        response = await running.client.post("/abort_request", content=body, headers=ADMIN)
    assert response.status_code == 400


async def test_the_profiler_accepts_only_listed_options():
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
    settings = {"ADMIN_API_KEY": "operator", "MAX_BODY_BYTES": "1024"}
    async with serve(ScriptedEngine("x"), **settings) as running:
        response = await running.client.post("/abort_request", content=b" " * 2000, headers=ADMIN)
    assert response.status_code == 413
