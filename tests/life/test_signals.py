"""Signals from the first moment of a server to its end, with a process of its own each."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.life.started import Start
from tests.support import sse
from tests.support.serving import HANGS_S

ENDS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@pytest.mark.parametrize("number", ENDS)
async def test_a_signal_in_the_first_moments_ends_the_server_and_leaves_nothing(
    start: Start, number: signal.Signals
) -> None:
    server = start()
    # The first moment, half a second before the server takes signals itself; polls are too late.
    while not server.folders:  # noqa: ASYNC110
        await asyncio.sleep(0)
    server.process.send_signal(number)
    assert await server.exit_code() == 0
    assert server.folders == []


@pytest.mark.parametrize("processes", ["1", "2"])
async def test_a_signal_as_soon_as_a_unix_socket_is_there_leaves_none(
    start: Start, tmp_path: Path, processes: str
) -> None:
    socket = tmp_path / "s"
    server = start(UDS=str(socket), TOKENIZER_WORKERS=processes)
    while not socket.exists() and server.process.poll() is None:  # noqa: ASYNC110
        await asyncio.sleep(0)
    server.process.send_signal(signal.SIGTERM)
    assert await server.exit_code() == 0
    assert not socket.exists()
    assert server.folders == []


@pytest.mark.parametrize("number", ENDS)
async def test_requests_finish_before_the_server_ends_by_a_signal(
    start: Start, number: signal.Signals
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


async def test_the_end_of_a_terminal_is_ignored_under_nohup(start: Start) -> None:
    server = start("nohup")
    async with await server.ready() as client:
        server.process.send_signal(signal.SIGHUP)
        server.process.send_signal(signal.SIGQUIT)  # taken after SIGHUP, and logged
        assert (await client.get("/readyz")).status_code == 200
    server.process.send_signal(signal.SIGTERM)
    assert await server.exit_code() == 0
