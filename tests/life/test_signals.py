"""Signals from the first moment of a server to its end, with a process of its own each."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support import processes, sse
from tests.support.serving import HANGS_S, PLAIN, eventually

SERVER = Path(__file__).parents[2] / "serve_hathora.py"
ENDS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


class Started:
    """A server with the scripted engine."""

    def __init__(self, folder: Path, *before: str) -> None:
        """`before`: a command that runs the server, such as `nohup`."""
        self.files = folder / "tmp"
        self.files.mkdir()
        self._out = folder / "out.log"
        environment = {
            "ENGINE": "scripted", "ENGINE_ARGS": '{"words": 20, "token_s": 0.05}', "PORT": "0",
            "HOST": "127.0.0.1", "TMPDIR": str(self.files), "LOG_FILE": "",
        }  # fmt: skip
        with self._out.open("wb") as out:
            self.process = subprocess.Popen(
                [*before, sys.executable, str(SERVER)], env={**os.environ, **environment},
                cwd=folder, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    @property
    def folders(self) -> list[Path]:
        return list(self.files.iterdir())

    async def ready(self) -> httpx.AsyncClient:
        await eventually(lambda: "ready" in self._out.read_text())
        port = re.search(r"port\W+(\d+)", self._out.read_text())
        assert port is not None
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port[1]}", verify=PLAIN)

    async def exit_code(self) -> int:
        return await asyncio.to_thread(self.process.wait, HANGS_S)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    servers: list[Started] = []

    def begin(*before: str) -> Started:
        servers.append(Started(tmp_path, *before))
        return servers[-1]

    yield begin
    for server in servers:
        processes.kill(server.process)


@pytest.mark.parametrize("number", ENDS)
async def test_a_signal_in_the_first_moments_ends_the_server_and_leaves_nothing(
    start: Callable[..., Started], number: signal.Signals
) -> None:
    server = start()
    await eventually(lambda: bool(server.folders))  # half a second before it takes signals itself
    server.process.send_signal(number)
    assert await server.exit_code() == 0
    assert server.folders == []


@pytest.mark.parametrize("number", ENDS)
async def test_requests_finish_before_the_server_ends_by_a_signal(
    start: Callable[..., Started], number: signal.Signals
) -> None:
    server = start()
    async with (
        await server.ready() as client,
        client.stream(
            "POST", "/v1/completions", json={"prompt": "hi", "stream": True}, timeout=HANGS_S
        ) as answer,
    ):
        server.process.send_signal(number)
        assert sse.frames((await answer.aread()).decode())[-1] == "[DONE]"
    assert await server.exit_code() == 0
    assert server.folders == []


async def test_the_end_of_a_terminal_is_ignored_under_nohup(start: Callable[..., Started]) -> None:
    server = start("nohup")
    async with await server.ready() as client:
        server.process.send_signal(signal.SIGHUP)
        server.process.send_signal(signal.SIGQUIT)  # taken after SIGHUP, and logged
        assert (await client.get("/readyz")).status_code == 200
    server.process.send_signal(signal.SIGTERM)
    assert await server.exit_code() == 0
