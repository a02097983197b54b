"""Jobs that do not end by themselves: errors, cancellation, a drain."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import structlog
from openai import APIError, AsyncOpenAI
from runpod.serverless.modules import rp_job

from app.errors import EngineDied, InternalError
from app.runpod import sdk
from tests.runpod.station import CHAT, HI, openai, working
from tests.support import sse
from tests.support.scripted import ScriptedEngine
from tests.support.serving import eventually


@pytest.mark.parametrize(
    ("input", "status", "param"),
    [
        ({"x": 1}, 400, "input"),
        (openai(CHAT, messages=[]), 400, "messages"),
        (openai(CHAT, messages=HI, temperature=9, stream=True), 400, "temperature"),
        (openai(CHAT, messages=HI, model="other"), 404, "model"),
        (openai("/v1/nothing"), 404, None),
        ({"route": CHAT}, 405, None),
        ({"openai_route": "/v1/models", "method": "POST"}, 405, None),
        ({"prompt": "a", "sampling_params": {"use_beam_search": True}}, 400, "use_beam_search"),
        ({"prompt": "a", "sampling_params": {"length_penalty": 2.0}}, 400, "length_penalty"),
        ({"text": "a", "input_embeds": [[1.0]]}, 400, "input_embeds"),
        ({"prompt": "a", "sampling_params": {"\ud800": 1}}, 400, "sampling_params.\\ud800"),
    ],
)  # fmt: skip
async def test_an_invalid_job_fails_with_status_and_field(
    input: Any, status: int, param: str | None
) -> None:
    async with working(ScriptedEngine("x")) as station:
        job = await station.ask(input, completes=False)
        assert (job.failure["status"], job.failure["param"]) == (status, param)
        assert set(job.failure) == {"message", "type", "param", "code", "status"}
        assert job.pieces == []


async def test_an_error_during_a_stream_is_sent_in_it_and_fails_the_job() -> None:
    engine = ScriptedEngine("a", InternalError("The engine stumbled."))
    async with working(engine, JOB_OUTPUT="classic") as station:
        job = await station.ask(openai(CHAT, messages=HI, stream=True), completes=False)
        frames = sse.frames("".join(job.pieces))
        assert frames[-2]["error"]["message"] == "The engine stumbled."
        assert job.failure["status"] == 500
        job = await station.ask({"prompt": "x", "stream": True}, completes=False)
        assert job.pieces[0]["choices"][0]["tokens"] == ["a"]
        assert job.failure["message"] == "The engine stumbled."


async def test_openais_sdk_raises_an_error_sent_during_a_stream() -> None:
    async with working(ScriptedEngine("a", InternalError("The engine stumbled."))) as station:
        url = station.platform.url + "/openai/v1"
        async with AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as client:
            chunks = await client.chat.completions.create(model="default", messages=HI, stream=True)
            with pytest.raises(APIError, match="stumbled"):
                async for _ in chunks:
                    pass


async def test_an_unexpected_error_is_logged_and_not_shown() -> None:
    async with working(ScriptedEngine(RuntimeError("secret"))) as station:
        with structlog.testing.capture_logs() as logged:
            job = await station.ask({"prompt": "x"}, completes=False)
        assert job.failure["status"] == 500
        assert "secret" not in (job.error or "")
        assert "Traceback" not in (job.error or "")
        assert any(line["event"] == "request failed" for line in logged)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cancelled_job_frees_slot_and_engine(stream: bool) -> None:
    engine = ScriptedEngine("a", asyncio.Event())
    async with working(engine) as station:
        job = station.platform.submit(openai(CHAT, messages=HI, stream=stream))
        await eventually(lambda: engine.running == 1)
        station.platform.cancel(job)
        await eventually(lambda: engine.running == 0 and station.gate.in_flight == 0)
        assert engine.aborted == 1
        assert job.output is None


async def test_a_job_cancelled_while_a_yield_is_posted_frees_slot_and_engine() -> None:
    """The SDK leaves its generators suspended in this case."""
    engine = ScriptedEngine(*"x" * 10, asyncio.Event())
    async with working(engine) as station:
        station.platform.stalled.clear()
        job = station.platform.submit(openai(CHAT, messages=HI, stream=True))
        await eventually(lambda: engine.running == 1)
        station.platform.cancel(job)
        await eventually(lambda: engine.running == 0 and station.gate.in_flight == 0)
        station.platform.stalled.set()


async def test_many_jobs_are_answered_at_once() -> None:
    together = asyncio.Event()
    engine = ScriptedEngine("a", together, "b")
    async with working(engine, MAX_CONCURRENCY="32") as station:
        jobs = [station.platform.submit({"prompt": str(no)}) for no in range(40)]
        await eventually(lambda: engine.running == 32)
        together.set()
        for job in jobs:
            await station.platform.result(job)
            assert job.output[0]["choices"][0]["text"] == "ab"
        assert station.platform.asked_for[0] == 32


async def test_in_flight_jobs_finish_after_the_worker_stops_taking_jobs() -> None:
    rest = asyncio.Event()
    engine = ScriptedEngine("a", rest, "b")
    async with working(engine) as station:
        in_flight = station.platform.submit({"prompt": "x", "stream": True})
        await eventually(lambda: engine.running == 1)
        station.loop.stop_taking()
        await eventually(lambda: station.platform.asked_for != [])
        rest.set()
        await station.running
        late = station.platform.submit({"prompt": "y"})
        assert in_flight.status == "COMPLETED"
        assert late.status == "IN_QUEUE"


async def test_an_idle_worker_stops_without_waiting_for_its_long_polls() -> None:
    async with working(ScriptedEngine("a"), long_poll_s=3600) as station:
        await eventually(lambda: station.platform.asked_for != [])
        await station.stop()


async def test_a_job_cancelled_during_a_drain_ends_at_once() -> None:
    async with working(ScriptedEngine("a", asyncio.Event())) as station:
        job = station.platform.submit({"prompt": "x"})
        await eventually(lambda: station.engine.running == 1)
        stopping = asyncio.create_task(station.stop())
        await eventually(lambda: not station.loop.is_alive())
        station.platform.cancel(job)
        await stopping
        assert station.engine.running == station.gate.in_flight == 0


async def test_in_flight_jobs_can_be_ended_with_an_error() -> None:
    engine = ScriptedEngine("a", asyncio.Event())
    async with working(engine) as station:
        jobs = [
            station.platform.submit({"prompt": "x"}),
            station.platform.submit(openai(CHAT, messages=HI, stream=True)),
        ]
        await eventually(lambda: engine.running == 2)
        station.gate.end_all(lambda: EngineDied("The engine has ended; please try again."))
        for job in jobs:
            await station.platform.result(job)
            assert job.failure["code"] == "engine_dead"
            assert job.failure["status"] == 503
        assert json.loads(jobs[1].pieces[-1].split("data: ")[-2])["error"]["code"] == "engine_dead"


async def test_refresh_worker_ends_the_worker_after_one_job() -> None:
    async with working(ScriptedEngine("a"), REFRESH_WORKER="true") as station:
        job = await station.ask({"prompt": "x"})
        assert job.stop_pod
        await station.running


async def test_an_unreachable_platform_is_polled_with_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with working(ScriptedEngine("a")) as station:
        await eventually(lambda: station.platform.asked_for != [])
        polls = 0

        async def refuse(*_: object) -> None:
            nonlocal polls
            polls += 1
            raise ConnectionRefusedError

        monkeypatch.setattr(sdk, "_PAUSE_S", 3600)
        monkeypatch.setattr(rp_job, "get_job", refuse)
        station.platform.submit({"prompt": "x"})
        await eventually(lambda: polls > 0)
        await asyncio.sleep(0.2)
        assert polls == 1
