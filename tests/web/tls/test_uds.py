"""The API on a unix socket."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from app.errors import ConfigError
from app.settings.checks import is_open
from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve, settings


async def test_requests_come_over_the_socket_and_their_client_is_called_unix(
    tmp_path: Path,
) -> None:
    with capture_logs() as lines:
        async with serve(ScriptedEngine("hi"), UDS=str(tmp_path / "s")) as running:
            answer = await running.chat()
            streamed = await running.chat(stream=True)
    assert answer.json()["choices"][0]["message"]["content"] == "hi"
    assert streamed.text.endswith("data: [DONE]\n\n")
    ends = [each for each in lines if each["event"] == "request finished"]
    assert [each["client"] for each in ends] == ["unix", "unix"]


async def test_a_proxy_on_the_socket_is_believed(tmp_path: Path) -> None:
    with capture_logs() as lines:
        async with serve(ScriptedEngine("hi"), UDS=str(tmp_path / "s")) as running:
            forwarded = {"x-forwarded-for": "203.0.113.7"}
            await running.client.get("/v1/models", headers=forwarded)
    (end,) = [each for each in lines if each["event"] == "request finished"]
    assert end["client"] == "203.0.113.7"


async def test_a_client_on_the_port_cannot_call_itself_unix() -> None:
    with capture_logs() as lines:
        async with serve(ScriptedEngine("hi"), FORWARDED_ALLOW_IPS="10.0.0.1") as running:
            forwarded = {"x-forwarded-for": "unix"}
            await running.client.get("/v1/models", headers=forwarded)
    (end,) = [each for each in lines if each["event"] == "request finished"]
    assert end["client"] == "127.0.0.1"


async def test_the_health_port_stands_beside_the_socket(
    tmp_path: Path, unused_tcp_port: int
) -> None:
    async with (
        serve(
            ScriptedEngine("hi"), UDS=str(tmp_path / "s"), PORT_HEALTH=str(unused_tcp_port)
        ) as running,
        httpx.AsyncClient() as probe,
    ):
        health = await probe.get(f"http://127.0.0.1:{unused_tcp_port}/health")
        models = await probe.get(f"http://127.0.0.1:{unused_tcp_port}/v1/models")
        assert (health.status_code, models.status_code) == (200, 404)
        assert (await running.client.get("/v1/models")).status_code == 200


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"UDS_MODE": "rw"}, "UDS_MODE: must be three octal digits"),
        ({"UDS_MODE": "999"}, "UDS_MODE: must be three octal digits"),
        ({"SSL_CERTFILE": "/c.pem"}, "UDS and SSL_CERTFILE exclude each other"),
        ({"UDS": "/" + "x" * 107}, "has at most 107 bytes"),
    ],
)
def test_settings_that_a_socket_cannot_honour_end_the_start(
    environment: dict[str, str], line: str
) -> None:
    with pytest.raises(ConfigError, match=line):
        settings(**{"UDS": "/run/s", **environment})


def test_a_socket_is_not_open_to_other_machines() -> None:
    assert is_open(settings(HOST="0.0.0.0"))
    assert not is_open(settings(HOST="0.0.0.0", UDS="/run/s"))
