"""START_TIMEOUT and REQUEST_TIMEOUT."""

from __future__ import annotations

import asyncio

from app.errors import StartError
from app.lifecycle import Phase
from tests.support import sse
from tests.support.scripted import ScriptedEngine
from tests.support.serving import eventually, serve


async def test_a_start_that_takes_too_long_fails_and_says_in_which_phase() -> None:
    async with serve(None, ready=False, START_TIMEOUT="0.05") as running:
        await eventually(lambda: running.lifecycle.phase is Phase.FAILED)
        error = running.serving.host.start_error
        assert isinstance(error, StartError)
        assert str(error) == "START_TIMEOUT: the model is not ready after 0.05 s (phase starting)"
        assert error.exit_code == 71


async def test_a_model_that_is_ready_in_time_stays() -> None:
    async with serve(ScriptedEngine("x"), START_TIMEOUT="30") as running:
        assert (await running.chat()).status_code == 200


async def test_a_request_that_takes_too_long_is_504_and_is_not_tried_again() -> None:
    engine = ScriptedEngine("a", asyncio.Event())
    async with serve(engine, REQUEST_TIMEOUT="0.2") as running:
        answer = await running.chat()
        assert answer.status_code == 504
        assert answer.headers["x-should-retry"] == "false"
        error = answer.json()["error"]
        assert (error["code"], error["message"]) == (
            "request_timed_out", "The request took longer than 0.2 s (REQUEST_TIMEOUT).",
        )  # fmt: skip
        await eventually(lambda: engine.running == 0 and running.gate.in_flight == 0)
        assert engine.aborted == 1


async def test_a_stream_that_takes_too_long_ends_with_the_error() -> None:
    async with serve(ScriptedEngine("a", asyncio.Event()), REQUEST_TIMEOUT="0.2") as running:
        answer = await running.chat(stream=True)
    *_, error, done = sse.frames(answer.text)
    assert (error["error"]["code"], done) == ("request_timed_out", "[DONE]")


async def test_anthropics_clients_are_told_in_their_form() -> None:
    body = {"model": "default", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    async with serve(ScriptedEngine("a", asyncio.Event()), REQUEST_TIMEOUT="0.2") as running:
        answer = await running.client.post("/v1/messages", json=body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (504, "timeout_error")


async def test_a_response_in_the_background_is_bounded_likewise() -> None:
    engine = ScriptedEngine("a", asyncio.Event())
    async with serve(engine, REQUEST_TIMEOUT="0.2") as running:
        body = {"model": "default", "input": "hi", "background": True}
        begun = (await running.client.post("/v1/responses", json=body)).json()
        path = f"/v1/responses/{begun['id']}"

        async def failed() -> bool:
            return (await running.client.get(path)).json()["status"] == "failed"

        await eventually(failed)
        assert "REQUEST_TIMEOUT" in (await running.client.get(path)).json()["error"]["message"]


async def test_a_request_that_ends_in_time_leaves_no_timer() -> None:
    async with serve(ScriptedEngine("a"), REQUEST_TIMEOUT="0.5") as running:
        assert (await running.chat()).status_code == 200
        await asyncio.sleep(0.6)
        assert (await running.chat()).status_code == 200
