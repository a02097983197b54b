"""What asks a server from outside, over TLS and on a unix socket: `check`, `bench`'s relay, and the
image's health check."""

from __future__ import annotations

import argparse
import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from app.check import command, target
from app.check.relay import relayed
from tests.support.certificates import Authority
from tests.support.scripted import ScriptedEngine
from tests.support.serving import Running, serve

HEALTHCHECK = Path(__file__).parents[3] / "deploy/docker/healthcheck.py"


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    target.add_arguments(parser)
    return target.parsed(parser, arguments)


@asynccontextmanager
async def mutual(folder: Path) -> AsyncIterator[tuple[Running, list[str]]]:
    """A server whose clients need certificates, and the flags to ask it."""
    authority = Authority(folder)
    client = authority.client("client")
    async with serve(
        ScriptedEngine("hi"),
        client_tls=client,
        SSL_CA_CERTS=str(authority.file),
        **authority.issue(),
    ) as running:
        ca, cert, key = (str(folder / name) for name in ("ca.pem", "client.pem", "client.key"))
        url = f"https://localhost:{running.port}"
        yield running, ["--base-url", url, "--ca", ca, "--cert", cert, "--key", key]


async def test_check_asks_over_tls_with_a_private_authority(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with mutual(tmp_path) as (running, flags):
        assert await asyncio.to_thread(command.main, flags) == 0
        untrusted = ["--base-url", f"https://localhost:{running.port}"]
        assert await asyncio.to_thread(command.main, untrusted) == 1
    assert "certificate verify failed" in capsys.readouterr().err


async def test_check_asks_on_a_unix_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "s")
    async with serve(ScriptedEngine("hi"), UDS=path):
        assert await asyncio.to_thread(command.main, ["--uds", path]) == 0
        monkeypatch.setenv("UDS", path)
        assert await asyncio.to_thread(command.main, []) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["--key", "/k"],
        ["--base-url", "https://x", "--ca", "/no/such/file"],
        ["--base-url", "http://x", "--ca", "/ca"],
        ["--cert", "/c", "--key", "/k"],
        ["--base-url", "https://x", "--uds", "/s"],
    ],
)
def test_wrong_certificates_are_wrong_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        options(*arguments)
    assert exit.value.code == 2


def test_a_unix_socket_is_asked_without_the_tls_of_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERTFILE", "/c.pem")
    assert options("--uds", "/s").base_url.scheme == "http"


@pytest.mark.parametrize("way", ["tls", "unix"])
async def test_a_load_client_that_knows_neither_asks_through_a_relay(
    tmp_path: Path, way: str
) -> None:
    @asynccontextmanager
    async def asked() -> AsyncIterator[list[str]]:
        if way == "tls":
            async with mutual(tmp_path) as (_, flags):
                yield flags
        else:
            async with serve(ScriptedEngine("hi"), UDS=str(tmp_path / "s")):
                yield ["--uds", str(tmp_path / "s")]

    def ask(flags: list[str]) -> list[int]:
        body = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
        with relayed(options(*flags)) as address:
            answers = [httpx.post(f"{address}/v1/chat/completions", json=body) for _ in range(3)]
        assert all(each.text.endswith("data: [DONE]\n\n") for each in answers)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/livez")
        return [each.status_code for each in answers]

    async with asked() as flags:
        assert await asyncio.to_thread(ask, flags) == [200, 200, 200]


def test_a_relay_ends_while_it_still_connects(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as mute:  # it never answers the handshake
        url = f"https://127.0.0.1:{mute.getsockname()[1]}"
        began = time.monotonic()
        with relayed(options("--base-url", url, "--ca", str(authority.file))) as address:
            client = socket.create_connection(("127.0.0.1", httpx.URL(address).port or 0))
            with client, mute.accept()[0]:
                pass
        assert time.monotonic() - began < 20  # the handshake's own limit is 60


def test_a_plain_server_is_asked_directly() -> None:
    with relayed(options("--base-url", "localhost:9/v1")) as address:
        assert address == "http://localhost:9"


def health_check(**environment: str) -> Callable[[], subprocess.CompletedProcess[str]]:
    return lambda: subprocess.run(
        [sys.executable, str(HEALTHCHECK)], env=environment, capture_output=True, text=True
    )


async def test_the_health_check_asks_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("api.example.org")
    async with serve(ScriptedEngine("hi"), client_tls=authority.client(), **files) as running:
        done = await asyncio.to_thread(health_check(PORT=str(running.port), **files))
    assert (done.returncode, done.stderr) == (0, "")
    assert '"phase":"ready"' in done.stdout.replace(" ", "")


async def test_the_health_check_asks_on_the_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    async with serve(ScriptedEngine("hi"), UDS=path):
        done = await asyncio.to_thread(health_check(UDS=path))
    gone = await asyncio.to_thread(health_check(UDS=str(tmp_path / "t")))
    assert (done.returncode, gone.returncode) == (0, 1)


async def test_the_health_check_takes_the_health_port_where_clients_need_certificates(
    tmp_path: Path, unused_tcp_port: int
) -> None:
    authority = Authority(tmp_path)
    files = {**authority.issue(), "SSL_CA_CERTS": str(authority.file)}
    async with serve(
        ScriptedEngine("hi"), client_tls=authority.client("client"), **files,
        PORT_HEALTH=str(unused_tcp_port),
    ) as running:  # fmt: skip
        port = str(running.port)
        asked = health_check(PORT=port, PORT_HEALTH=str(unused_tcp_port), **files)
        done = await asyncio.to_thread(asked)
    assert done.returncode == 0
