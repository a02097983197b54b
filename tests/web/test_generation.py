"""One generating request over HTTP: admission, failures before and in a stream, heartbeats."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from app.dialects.contract import Stream
from app.errors import InvalidRequest, Overloaded
from app.web.generation import _Writer
from tests.support import sse
from tests.support.scripted import ScriptedEngine
from tests.support.serving import eventually, serve

FOUR_KEYS = {"message", "type", "param", "code"}


async def test_a_request_is_refused_before_its_body_is_read_if_the_server_is_full() -> None:
    engine = ScriptedEngine(asyncio.Event())
    async with serve(engine, MAX_CONCURRENCY="1", MAX_QUEUE="0") as running:
        admitted = asyncio.create_task(running.chat())
        await eventually(lambda: engine.running == 1)
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n")
        async with asyncio.timeout(2):
            head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1\r\n" in head
        writer.close()
        admitted.cancel()


async def test_queued_requests_get_their_turn() -> None:
    engine = ScriptedEngine(0.02, "x")
    async with serve(engine, MAX_CONCURRENCY="2", MAX_QUEUE="8") as running:
        answers = await asyncio.gather(*(running.chat() for _ in range(10)))
    assert [answer.status_code for answer in answers] == [200] * 10


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("error", [InvalidRequest("no", param="x"), Overloaded("full")])
async def test_a_stream_that_fails_before_its_first_frame_has_the_errors_status(
    path: str, error: Exception
) -> None:
    async with serve(ScriptedEngine(error)) as running:
        body = {"messages": [{"role": "user", "content": "hi"}], "prompt": "hi", "stream": True}
        answer = await running.client.post(path, json=body)
    assert answer.status_code == error.status
    assert set(answer.json()["error"]) == FOUR_KEYS


@pytest.mark.parametrize("failure", [Overloaded("full"), RuntimeError("secret detail")])
async def test_a_stream_that_fails_later_ends_with_an_error_frame_and_done(
    failure: Exception,
) -> None:
    async with serve(ScriptedEngine("some", failure)) as running:
        answer = await running.chat(stream=True)
    assert answer.status_code == 200
    *chunks, error, done = sse.frames(answer.text)
    assert done == "[DONE]"
    assert set(error["error"]) == FOUR_KEYS
    assert "secret" not in answer.text
    assert not any(chunk["choices"][0]["finish_reason"] for chunk in chunks)


async def test_an_unexpected_failure_is_a_500_without_details() -> None:
    async with serve(ScriptedEngine(RuntimeError("secret detail"))) as running:
        answer = await running.chat()
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "server_error"
        assert "secret" not in answer.text
        assert running.gate.in_flight == 0


async def test_an_engine_that_ends_without_a_finish_is_an_error_not_an_answer() -> None:
    class Unfinished(ScriptedEngine):
        async def generate(self, *args: Any, **more: Any) -> Any:
            async for chunk in super().generate(*args, **more):
                if chunk.finish is None:
                    yield chunk

    async with serve(Unfinished("half")) as running:
        assert (await running.chat()).status_code == 500
        assert sse.frames((await running.chat(stream=True)).text)[-2]["error"]


async def test_a_silent_stream_is_kept_alive_with_comments() -> None:
    async with serve(ScriptedEngine(0.5, "at last"), HEARTBEAT_INTERVAL="0.1") as running:
        answer = await running.chat(stream=True)
    # No blank line: some clients take it for an event without data.
    assert answer.text.startswith(": keep-alive\n:")
    assert 2 <= answer.text.count(": keep-alive\n") <= 6
    assert sse.text_of(sse.frames(answer.text)) == "at last"


async def test_a_failure_after_a_heartbeat_is_a_frame() -> None:
    engine = ScriptedEngine(0.3, InvalidRequest("too late"))
    async with serve(engine, HEARTBEAT_INTERVAL="0.1") as running:
        answer = await running.chat(stream=True)
    assert answer.status_code == 200
    error, done = sse.frames(answer.text)
    assert error["error"]["message"] == "too late"
    assert done == "[DONE]"


async def test_a_heartbeat_that_waits_for_the_client_goes_out_before_what_comes_after_it() -> None:
    sent: list[bytes] = []
    reads = asyncio.Event()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await reads.wait()
            sent.append(message["body"])

    made = 0

    def numbered() -> bytes:
        nonlocal made
        made += 1
        return b"%d " % made

    writer = _Writer(send, send)
    writer.begin_stream(Stream(_no_frames(), lambda _: b"", numbered))
    beat = asyncio.create_task(writer.heartbeat())
    await asyncio.sleep(0)
    frames = asyncio.create_task(writer.frame(numbered()))
    await asyncio.sleep(0)
    await writer.heartbeat()  # while one waits, there is no other
    reads.set()
    await asyncio.gather(beat, frames)
    await writer.end()
    assert sent == [b"1 ", b"2 ", b""]


async def _no_frames() -> AsyncGenerator[bytes, None]:
    return
    yield b""
