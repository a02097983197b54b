"""HEALTH_CHECK_PATH and PORT_HEALTH, by which RunPod's load balancer asks."""

from __future__ import annotations

import socket

import httpx
import pytest

from app.errors import ConfigError
from app.settings.load import load
from app.web.listening import bind_health
from tests.support.scripted import ScriptedEngine
from tests.support.serving import PLAIN, assembled, serve, settings, uvicorn_config


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


async def test_a_path_of_its_own_answers_as_ping_without_a_key() -> None:
    async with serve(ScriptedEngine("x"), HEALTH_CHECK_PATH="/status/", API_KEY="k") as running:
        own = await running.client.get("/status")
        ping = await running.client.get("/ping")
        described = (await running.client.get("/openapi.json")).json()["paths"]
    assert (own.status_code, own.json()) == (ping.status_code, ping.json()) == (200, own.json())
    assert "/status" in described


async def test_a_path_of_its_own_is_204_while_the_model_loads() -> None:
    async with serve(None, ready=False, HEALTH_CHECK_PATH="/status") as running:
        assert (await running.client.get("/status")).status_code == 204


@pytest.mark.parametrize("path", ["/livez", "/", "/docs", "/metrics"])
def test_a_path_that_is_200_before_the_model_is_ready_stops_the_start(path: str) -> None:
    with pytest.raises(ConfigError, match=r"HEALTH_CHECK_PATH.* before the model is"):
        load({}, {"HEALTH_CHECK_PATH": path})


@pytest.mark.parametrize("path", ["status", "/a b", "//", "http://x/ping", "/{x}"])
def test_what_is_no_path_is_refused_by_name(path: str) -> None:
    with pytest.raises(ConfigError, match=r"^HEALTH_CHECK_PATH: must be a path"):
        load({}, {"HEALTH_CHECK_PATH": path})


@pytest.mark.parametrize("path", ["/v1/models", "/generate", "/server_info"])
def test_another_route_is_no_health_check(path: str) -> None:
    configured = settings(HEALTH_CHECK_PATH=path)
    with pytest.raises(ConfigError, match=f"HEALTH_CHECK_PATH={path}"):
        uvicorn_config(assembled(configured, None))  # type: ignore[arg-type]


async def test_on_the_health_port_only_the_health_routes_answer() -> None:
    port = free_port()
    variables = {"PORT_HEALTH": str(port), "HEALTH_CHECK_PATH": "/status"}
    async with serve(ScriptedEngine("x"), **variables) as running:
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, verify=PLAIN) as health:
            for path in ("/ping", "/health", "/livez", "/readyz", "/status", "/ping/"):
                assert (await health.get(path)).status_code == 200, path
            for path in ("/", "/v1/models", "/metrics", "/docs"):
                assert (await health.get(path)).status_code == 404, path
            chat = {"messages": [{"role": "user", "content": "hi"}]}
            refused = await health.post("/v1/chat/completions", json=chat)
            assert refused.json()["error"]["code"] == "unknown_url"
        assert (await running.chat()).status_code == 200
        assert (await running.client.get("/ping")).status_code == 200
    assert running.engine.calls


def test_the_health_port_is_named_if_it_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"^PORT_HEALTH: cannot listen on 127.0.0.1:{port}"):
            bind_health(settings(PORT_HEALTH=str(port)))


def test_the_same_port_twice_is_one_port() -> None:
    configured = load({}, {"PORT": "8123", "PORT_HEALTH": "8123"}).settings
    assert bind_health(configured) is None


def test_several_processes_share_the_health_port() -> None:
    configured = settings(PORT_HEALTH=str(free_port()), TOKENIZER_WORKERS="2", STORE_URL="off")
    sockets = [bind_health(configured), bind_health(configured)]
    assert all(sockets)
    for each in sockets:
        assert each is not None
        each.close()
