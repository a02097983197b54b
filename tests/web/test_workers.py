"""Several serving processes with one engine and one port, however they end.

The engine is scripted (a start takes two seconds), the processes are real. With the real engine:
tests/live/test_workers.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from app.errors import ConfigError
from app.gate import Gate
from app.lifecycle import Lifecycle, Phase
from app.settings.catalogue import Settings
from app.stats import LocalGauges, LoopLag
from app.web.server import bind, bind_several
from app.workers.shared_gauges import SharedGauges
from tests.support import processes, sse
from tests.support.serving import eventually, settings

SERVER = Path(__file__).parents[2] / "serve_hathora.py"
KEY = {"authorization": "Bearer operator"}


class Several:
    """The parent and what it started."""

    def __init__(self, folder: Path, **given: str) -> None:
        folder.mkdir()
        self._out = folder / "out.log"
        self.files = folder / "tmp"
        self.files.mkdir()
        environ = {
            "TOKENIZER_WORKERS": "2", "HOST": "127.0.0.1", "PORT": "0", "LOG_FORMAT": "json",
            "ADMIN_API_KEY": "operator", "TMPDIR": str(self.files), "ENGINE": "scripted",
            "ENGINE_ARGS": '{"words": 51, "token_s": 0.05}', **given,
        }  # fmt: skip
        with self._out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(SERVER)], env={**os.environ, **environ}, cwd=folder,
                stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    @property
    def log(self) -> list[dict[str, Any]]:
        """Its complete lines, those of our own form."""
        lines = self._out.read_text(errors="replace").split("\n")[:-1]
        return [json.loads(line) for line in lines if line.startswith("{")]

    @property
    def text(self) -> str:
        return self._out.read_text(errors="replace")

    async def said(self, event: str, **fields: Any) -> dict[str, Any]:
        """The first line of the log that says so."""
        while True:
            for line in self.log:
                if line["event"] == event and fields.items() <= line.items():
                    return line
            assert self.process.poll() is None, self.text[-3000:]
            await asyncio.sleep(0.01)

    async def listening(self) -> Several:
        self.url = f"http://127.0.0.1:{(await self.said('listening'))['port']}"
        self.family = [self.process.pid, *(each.pid for each in self.children())]
        return self

    async def ready(self) -> Several:
        await self.listening()
        await self.said("phase", phase="ready")
        return self

    def children(self) -> list[psutil.Process]:
        """The serving processes."""
        found = psutil.Process(self.process.pid).children()
        return [each for each in found if "--process" in each.cmdline()]

    async def get(self, path: str) -> httpx.Response:
        """On a connection of its own, so that any of the processes may answer."""
        async with httpx.AsyncClient(base_url=self.url, timeout=20) as client:
            return await client.get(path, headers=KEY)

    async def exit_code(self, within_s: float = 60) -> int:
        return await asyncio.to_thread(self.process.wait, within_s)

    async def nothing_is_left(self) -> None:
        await eventually(lambda: not any(map(psutil.pid_exists, self.family)))
        assert not list(self.files.glob("serve-*"))

    def stop(self) -> None:
        processes.kill(self.process)


class Streams:
    """Streams on connections of their own, opened one by one until each process has some."""

    def __init__(self, server: Several) -> None:
        self._server = server
        self.by_process: dict[int, list[str]] = {0: [], 1: []}
        self.refused = 0
        self._tasks: list[asyncio.Task[str]] = []

    async def open(self) -> Streams:
        async with asyncio.timeout(20):
            while not all(self.by_process.values()):
                name = f"stream-{len(self._tasks)}"
                self._tasks.append(asyncio.create_task(self._read(name)))
                line = await self._server.said("request started", request_id=name)
                self.by_process[line["process"]].append(name)
        return self

    async def _read(self, name: str) -> str:
        body = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
        async with (
            httpx.AsyncClient(base_url=self._server.url, timeout=30) as client,
            client.stream(
                "POST", "/v1/chat/completions", json=body,
                headers={"x-request-id": name, "authorization": "Bearer operator"},
            ) as answer,
        ):  # fmt: skip
            text = "".join([piece async for piece in answer.aiter_text()])
            self.refused += answer.status_code == 503
            return text if answer.status_code == 200 else ""

    def __len__(self) -> int:
        return len(self._tasks)

    async def answers(self) -> list[list[Any]]:
        """Frames of each stream; none of those that were refused, or cut off with their process."""
        found = await asyncio.gather(*self._tasks, return_exceptions=True)
        texts = ["" if isinstance(each, httpx.TransportError) else each for each in found]
        return [sse.frames(text) if text else [] for text in texts]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Several]]:
    started: list[Several] = []

    def begin(**given: str) -> Several:
        started.append(Several(tmp_path / str(len(started)), **given))
        return started[-1]

    yield begin
    for each in started:
        each.stop()


Start = Callable[..., Several]


async def test_the_figures_are_the_same_whichever_process_is_asked(start: Start) -> None:
    server = await start(ENGINE_ARGS='{"words": 1000, "token_s": 0.05}').ready()
    streams = await Streams(server).open()
    for _ in range(8):
        health = (await server.get("/health")).json()
        assert (health["phase"], health["in_flight"]) == ("ready", len(streams))
        assert (await server.get("/v1/loads")).json()["in_flight"] == len(streams)
        assert f"serve_in_flight_requests {len(streams)}.0" in (await server.get("/metrics")).text


async def test_what_each_process_has_counted_is_in_one_scrape(start: Start) -> None:
    server = await start().ready()
    streams = await Streams(server).open()
    assert all(frames[-1] == "[DONE]" for frames in await streams.answers())
    metrics = (await server.get("/metrics")).text
    assert f"serve_time_to_first_token_seconds_count {len(streams)}.0" in metrics
    assert f"serve_completion_tokens_total {len(streams) * 51}.0" in metrics


async def test_a_drain_sees_the_people_of_every_process_out(start: Start) -> None:
    server = await start().ready()
    streams = await Streams(server).open()
    os.killpg(server.process.pid, signal.SIGINT)  # as a terminal does: the others get it, too
    await server.said("draining", in_flight=len(streams))
    refused = [await server.get("/readyz") for _ in range(6)]
    assert [answer.status_code for answer in refused] == [503] * 6
    for frames in await streams.answers():
        assert frames[-1] == "[DONE]"
        assert frames[-2]["choices"][0]["finish_reason"] == "stop"
    assert await server.exit_code() == 0
    await server.nothing_is_left()


async def test_the_rest_is_told_when_the_drain_takes_too_long(start: Start) -> None:
    server = await start(DRAIN_TIMEOUT="0.2").ready()
    streams = await Streams(server).open()
    server.process.send_signal(signal.SIGTERM)
    for frames in await streams.answers():
        assert frames[-2]["error"]["code"] == "server_shutting_down"
    assert await server.exit_code() == 0


async def test_a_second_signal_ends_all_at_once(start: Start) -> None:
    server = await start().ready()
    streams = await Streams(server).open()
    server.process.send_signal(signal.SIGTERM)
    await server.said("draining")
    server.process.send_signal(signal.SIGTERM)
    assert await server.exit_code(2) == 128 + signal.SIGTERM
    await server.nothing_is_left()
    await streams.answers()


async def test_a_process_that_is_lost_is_admitted_to_everybody_elses_clients(start: Start) -> None:
    server = await start().ready()
    streams = await Streams(server).open()
    victim = server.children()[1]
    victim.kill()
    told = [frames for frames in await streams.answers() if frames]
    assert len(told) == len(streams.by_process[0])
    assert all(frames[-2]["error"]["code"] == "engine_dead" for frames in told)
    assert await server.exit_code(5) == 70
    why = f"a serving process (pid {victim.pid}) ended: killed by SIGKILL"
    assert any(line.get("reason") == why for line in server.log)
    await server.nothing_is_left()


async def test_a_parent_that_is_lost_leaves_nobody_without_an_answer(start: Start) -> None:
    server = await start().ready()
    streams = await Streams(server).open()
    server.process.kill()
    for frames in await streams.answers():
        assert frames[-2]["error"]["code"] == "engine_dead"
        assert frames[-1] == "[DONE]"
    await server.exit_code()
    await server.nothing_is_left()


async def test_the_operator_ends_a_request_in_whichever_process_it_is(start: Start) -> None:
    server = await start().ready()
    streams = await Streams(server).open()
    async with httpx.AsyncClient(base_url=server.url, headers=KEY, timeout=20) as one_process:
        for name in (streams.by_process[0][0], streams.by_process[1][0], "nobody"):
            body = {"rid": name}
            found = (await one_process.post("/abort_request", json=body)).json()["aborted"]
            assert found == (name != "nobody")
        rest = (await one_process.post("/abort_request", json={"abort_all": True})).json()
    assert rest["aborted"] == len(streams) - 2
    for frames in await streams.answers():
        assert frames[-2]["error"]["code"] == "request_aborted"


async def test_each_process_has_its_share_of_the_places(start: Start) -> None:
    server = await start(MAX_CONCURRENCY="2", MAX_QUEUE="0").ready()
    streams = await Streams(server).open()
    assert (await server.get("/health")).json()["in_flight"] == 2
    answered = [frames for frames in await streams.answers() if frames]
    assert len(answered) == 2
    assert streams.refused == len(streams) - 2


async def test_the_first_answers_come_while_the_model_loads(start: Start) -> None:
    server = await start(ENGINE_ARGS='{"loading_s": 60}').listening()
    for _ in range(6):
        assert (await server.get("/livez")).status_code == 200
        health = (await server.get("/health")).json()
        assert (health["status"], health["phase"]) == ("starting", "loading")
    server.process.send_signal(signal.SIGTERM)
    assert await server.exit_code(5) == 0
    await server.nothing_is_left()


async def test_a_process_that_is_lost_during_the_start_ends_it(start: Start) -> None:
    server = await start(ENGINE_ARGS='{"loading_s": 60}').listening()
    server.children()[0].kill()
    assert await server.exit_code(8) == 70
    await server.nothing_is_left()


async def test_a_port_that_is_taken_ends_the_start(start: Start) -> None:
    server = await start().listening()
    late = start(PORT=server.url.rpartition(":")[2])
    assert await late.exit_code() == 78
    assert "cannot listen on 127.0.0.1" in late.text


def _counted(requests: int, lag_s: float, silent_s: float) -> LocalGauges:
    lifecycle, lag = Lifecycle(), LoopLag()
    lifecycle.enter(Phase.READY)
    gate = Gate(lifecycle, max_running=9, max_waiting=0)
    for _ in range(requests):
        gate.admit()
    lag.note(lag_s)
    lag.note(0.0)
    return LocalGauges(gate, lag, lambda: silent_s)


async def test_the_board_has_sums_of_counts_and_the_longest_of_durations(tmp_path: Path) -> None:
    SharedGauges.create(tmp_path, 3)
    boards = [SharedGauges(tmp_path, no) for no in range(3)]
    for board, requests, lag_s, silent_s in zip(
        boards, (2, 3, 0), (0.1, 0.7, 0.2), (4.0, 9.0, 0.0), strict=True
    ):
        board.publish(_counted(requests, lag_s, silent_s))
    found = boards[0].gauges()
    assert (found.in_flight, found.worst_lag_s, found.lag_s) == (5, 0.7, 0.0)
    # The third has no work: that it has heard nothing says nothing.
    assert (found.longest_silence_s, found.shortest_silence_s) == (9.0, 4.0)


async def test_a_scrape_of_one_process_has_all_count_their_worst_anew(tmp_path: Path) -> None:
    SharedGauges.create(tmp_path, 2)
    boards = [SharedGauges(tmp_path, no) for no in range(2)]
    counted = [_counted(0, lag_s, 0.0) for lag_s in (0.1, 0.7)]
    for board, own in zip(boards, counted, strict=True):
        board.publish(own)
    boards[0].scraped()
    for board, own in zip(boards, counted, strict=True):
        board.publish(own)
    assert boards[0].gauges().worst_lag_s == 0.0


def test_connections_are_spread_over_the_sockets_of_one_port() -> None:
    chosen = settings()
    listeners = bind_several(chosen, 2)
    port = listeners[0].getsockname()[1]
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(64)]
    counts = []
    for listener in listeners:
        listener.setblocking(False)
        accepted = []
        with suppress(BlockingIOError):
            while True:
                accepted.append(listener.accept()[0])
        counts.append(len(accepted))
        for each in (listener, *accepted):
            each.close()
    for each in clients:
        each.close()
    assert sum(counts) == 64
    assert min(counts) > 8


@pytest.mark.parametrize("first", [1, 2])
@pytest.mark.parametrize("second", [1, 2])
def test_nobody_can_take_a_port_that_one_has(first: int, second: int) -> None:
    def take(count: int, chosen: Settings) -> list[socket.socket]:
        return bind_several(chosen, count) if count > 1 else [bind(chosen)]

    held = take(first, settings())
    with pytest.raises(ConfigError, match="cannot listen"):
        take(second, settings(PORT=str(held[0].getsockname()[1])))
    for each in held:
        each.close()
