"""Several serving processes with one engine and one port, however they end.

The engine is scripted (a start takes two seconds), the processes are real. With the real engine:
tests/live/test_workers.py.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.serving import PLAIN
from tests.workers.several import KEY, LONG, Several, Streams

Start = Callable[..., Several]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Several]]:
    started: list[Several] = []

    def begin(**environment: str) -> Several:
        started.append(Several(tmp_path / str(len(started)), **environment))
        return started[-1]

    yield begin
    for each in started:
        each.stop()


async def test_every_process_reports_the_gauges_of_all(start: Start) -> None:
    server = await start(ENGINE_ARGS=LONG).ready()
    streams = await Streams(server).open()
    for _ in range(8):
        health = (await server.get("/health")).json()
        assert (health["phase"], health["in_flight"]) == ("ready", len(streams))
        assert (await server.get("/v1/loads")).json()["in_flight"] == len(streams)
        assert f"serve_in_flight_requests {len(streams)}.0" in (await server.get("/metrics")).text


async def test_every_process_asks_for_the_key(start: Start) -> None:
    server = await start(API_KEY="client").ready()
    for _ in range(8):  # each on a connection of its own, so that any process may answer
        async with httpx.AsyncClient(base_url=server.url, verify=PLAIN) as client:
            assert (await client.get("/v1/models")).status_code == 401
            key = {"authorization": "Bearer client"}
            assert (await client.get("/v1/models", headers=key)).status_code == 200


async def test_one_scrape_has_the_counts_of_every_process(start: Start) -> None:
    server = await start().ready()
    streams = await Streams(server).open()
    assert all(frames[-1] == "[DONE]" for frames in await streams.answers())
    metrics = (await server.get("/metrics")).text
    assert f"serve_time_to_first_token_seconds_count {len(streams)}.0" in metrics
    assert f"serve_completion_tokens_total {len(streams) * 51}.0" in metrics


async def test_a_drain_lets_the_requests_of_every_process_finish(start: Start) -> None:
    server = await start().ready()
    streams = await Streams(server).open()
    os.killpg(server.process.pid, signal.SIGINT)  # like Ctrl-C in a terminal: to all processes
    await server.logged("draining", in_flight=len(streams))
    refused = [await server.get("/readyz") for _ in range(6)]
    assert [answer.status_code for answer in refused] == [503] * 6
    for frames in await streams.answers():
        assert frames[-1] == "[DONE]"
        assert frames[-2]["choices"][0]["finish_reason"] == "stop"
    assert await server.exit_code() == 0
    await server.nothing_is_left()


async def test_remaining_requests_fail_when_the_drain_times_out(start: Start) -> None:
    server = await start(DRAIN_TIMEOUT="0.2", ENGINE_ARGS=LONG).ready()
    streams = await Streams(server).open()
    server.process.send_signal(signal.SIGTERM)
    for frames in await streams.answers():
        assert frames[-2]["error"]["code"] == "server_shutting_down"
    assert await server.exit_code() == 0


async def test_a_second_signal_ends_every_process_at_once(start: Start) -> None:
    server = await start(ENGINE_ARGS=LONG).ready()
    streams = await Streams(server).open()
    server.process.send_signal(signal.SIGTERM)
    await server.logged("draining")
    server.process.send_signal(signal.SIGTERM)
    assert await server.exit_code(2) == 128 + signal.SIGTERM
    await server.nothing_is_left()
    await streams.answers()


async def test_if_a_process_is_lost_the_requests_of_the_others_fail(start: Start) -> None:
    server = await start(ENGINE_ARGS=LONG).ready()
    streams = await Streams(server).open()
    victim = server.children()[1]
    victim.kill()
    answers = [frames for frames in await streams.answers() if frames]
    assert len(answers) == len(streams.by_process[0])
    assert all(frames[-2]["error"]["code"] == "engine_dead" for frames in answers)
    assert await server.exit_code(5) == 70
    why = f"a serving process (pid {victim.pid}) ended: killed by SIGKILL"
    assert any(line.get("reason") == why for line in server.log)
    await server.nothing_is_left()


async def test_if_a_process_stands_still_the_requests_of_the_others_fail(start: Start) -> None:
    server = await start(ENGINE_ARGS=LONG).ready()
    streams = await Streams(server).open()
    victim = server.children()[1]
    victim.suspend()
    assert await server.exit_code(30) == 70
    answers = [frames for frames in await streams.answers() if frames]
    assert len(answers) == len(streams.by_process[0])
    assert all(frames[-2]["error"]["code"] == "engine_dead" for frames in answers)
    why = f"a serving process (pid {victim.pid}) stands still"
    assert any(line.get("reason") == why for line in server.log)
    await server.nothing_is_left()


async def test_a_server_whose_engine_hangs_ends_as_a_whole(start: Start) -> None:
    server = await start(ENGINE_ARGS='{"token_s": 3600}', ENGINE_STALL_TIMEOUT="0.5").ready()
    streams = await Streams(server).open()
    for frames in await streams.answers():
        assert frames[-2]["error"]["code"] == "engine_dead"
    assert await server.exit_code() == 73
    await server.nothing_is_left()


async def test_if_the_parent_is_lost_every_request_gets_an_error(start: Start) -> None:
    server = await start(ENGINE_ARGS=LONG).ready()
    streams = await Streams(server).open()
    server.process.kill()
    for frames in await streams.answers():
        assert frames[-2]["error"]["code"] == "engine_dead"
        assert frames[-1] == "[DONE]"
    await server.exit_code()
    await server.nothing_is_left()


async def test_the_operator_can_abort_a_request_of_any_process(start: Start) -> None:
    server = await start(ENGINE_ARGS=LONG).ready()
    streams = await Streams(server).open()
    async with httpx.AsyncClient(
        base_url=server.url, headers=KEY, timeout=20, verify=PLAIN
    ) as one_process:
        for name in (streams.by_process[0][0], streams.by_process[1][0], "unknown"):
            body = {"rid": name}
            aborted = (await one_process.post("/abort_request", json=body)).json()["aborted"]
            assert aborted == (name != "unknown")
        rest = (await one_process.post("/abort_request", json={"abort_all": True})).json()
    assert rest["aborted"] == len(streams) - 2
    for frames in await streams.answers():
        assert frames[-2]["error"]["code"] == "request_aborted"


async def test_each_process_admits_its_share_of_the_requests(start: Start) -> None:
    server = await start(MAX_CONCURRENCY="2", MAX_QUEUE="0").ready()
    streams = await Streams(server).open()
    assert (await server.get("/health")).json()["in_flight"] == 2
    answered = [frames for frames in await streams.answers() if frames]
    assert len(answered) == 2
    assert streams.refused == len(streams) - 2


async def test_probes_are_answered_while_the_model_loads(start: Start) -> None:
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
