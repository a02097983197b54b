"""Jobs forwarded to another server: to one of ours, and to one that misbehaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import structlog

from app.errors import ConfigError
from app.runpod.upstream import UpstreamBackend
from app.types import Message, Text
from tests.runpod.station import HI, Station, working
from tests.support import sse
from tests.support.scripted import ScriptedEngine
from tests.support.serving import Running, eventually, serve, settings

OK = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\nconnection: close\r\n\r\n"
EVENTS, JSON = OK % b"text/event-stream", OK % b"application/json"


@asynccontextmanager
async def forwarding(url: str, **variables: str) -> AsyncIterator[Station]:
    variables = {"SGLANG_BASE_URL": url, **variables}
    backend = UpstreamBackend(settings(**variables))
    try:
        async with working(backend=backend, **variables) as station:
            yield station
    finally:
        await backend.close()


@asynccontextmanager
async def to_ours(
    engine: ScriptedEngine, **variables: str
) -> AsyncIterator[tuple[Station, Running]]:
    async with (
        serve(engine, API_KEY="secret") as running,
        forwarding(
            f"http://127.0.0.1:{running.port}/v1/", SGLANG_API_KEY="secret", **variables
        ) as station,
    ):
        yield station, running


class RawServer:
    """A server that sends the next of `answers` on each connection; None: nothing at all."""

    def __init__(self, *answers: bytes | None) -> None:
        self._answers = list(answers)
        self._idle = asyncio.Semaphore(0)
        self.requests: list[bytes] = []

    async def __aenter__(self) -> RawServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for _ in self.requests:
            await self._idle.acquire()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(line.split(b":")[1]) for line in head.lower().splitlines()
             if line.startswith(b"content-length")), 0
        )  # fmt: skip
        self.requests.append(head + await reader.readexactly(length))
        answer = self._answers.pop(0)
        if answer is None:
            await reader.read()  # until the client disconnects
        else:
            writer.write(answer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        self._idle.release()

    def body(self, no: int = -1) -> Any:
        return json.loads(self.requests[no].split(b"\r\n\r\n", 1)[1])


async def test_a_prompt_is_answered_as_a_conversation() -> None:
    async with to_ours(ScriptedEngine("He", "llo")) as (station, running):
        job = await station.ask({"prompt": "hi"})
        assert job.output[0]["choices"][0]["message"]["content"] == "Hello"
        assert running.engine.chats[-1].messages == [Message(role="user", parts=(Text("hi"),))]


async def test_a_stream_is_passed_on_event_by_event() -> None:
    async with to_ours(ScriptedEngine(*"Hello")) as (station, _):
        job = await station.ask({"messages": HI, "stream": True})
        frames = sse.frames("".join(job.pieces))
        assert (sse.text_of(frames), frames[-1]) == ("Hello", "[DONE]")
        assert len(job.pieces) > 1


async def test_without_raw_openai_output_a_stream_is_lists_of_chunks() -> None:
    async with to_ours(ScriptedEngine(*"Hello"), RAW_OPENAI_OUTPUT="0") as (station, _):
        job = await station.ask({"messages": HI, "stream": True})
        assert sse.text_of([chunk for piece in job.pieces for chunk in piece]) == "Hello"


async def test_every_route_but_the_operators_is_passed_on() -> None:
    async with to_ours(ScriptedEngine("a")) as (station, _):
        for input in (
            {"openai_route": "/v1/models"}, {"route": "/health"}, {"text": "x"},
            {"openai_route": "/v1/completions", "openai_input": {"prompt": "x"}},
            {"openai_route": "/tokenize", "openai_input": {"prompt": "x"}},
        ):  # fmt: skip
            assert (await station.ask(input)).output[0]
        job = await station.ask({"route": "/flush_cache", "method": "POST"}, completes=False)
        assert job.failure["status"] == 404


async def test_errors_of_the_other_server_are_passed_on_with_their_status() -> None:
    async with to_ours(ScriptedEngine("a")) as (station, _):
        for stream in (True, False):
            job = await station.ask(
                {"messages": HI, "temperature": 9, "stream": stream}, completes=False
            )
            assert job.failure["status"] == 400
            assert job.failure["param"] == "temperature"
            assert job.failure["code"] == "decimal_above_max_value"


async def test_a_cancelled_job_ends_on_the_other_server_too() -> None:
    engine = ScriptedEngine("a", asyncio.Event())
    async with to_ours(engine) as (station, _):
        for stream in (True, False):
            job = station.platform.submit({"messages": HI, "stream": stream})
            await eventually(lambda: engine.running == 1)
            station.platform.cancel(job)
            await eventually(lambda: engine.running == 0 and station.gate.in_flight == 0)


async def test_every_parameter_arrives_as_it_was_sent() -> None:
    async with RawServer(JSON + b"{}") as server, forwarding(server.url) as station:
        others = {
            "top_k": 3,
            "logprobs": True,
            "chat_template_kwargs": {"a": [1]},
            "anything": None,
        }
        await station.ask({"messages": HI, "extra_body": {"x": 1}, "max_batch_size": 3, **others})
        assert server.body() == {"messages": HI, **others, "x": 1, "model": "default"}


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        (b"", 502, "ended the connection"),
        (b"HTTP/1.1 500 Oops\r\ncontent-length: 4\r\n\r\nboom", 500, "status 500"),
        (
            b'HTTP/1.1 404 No\r\ncontent-length: 22\r\n\r\n{"detail":"Not Found"}',
            404, "Not Found",
        ),
        (
            b'HTTP/1.1 400 No\r\ncontent-length: 48\r\n\r\n'
            b'{"object":"error","message":"too long","code":4}',
            400, "too long",
        ),
        (JSON + b'{"truncated', 200, ""),
    ],
    ids=["gone", "500", "detail", "older vLLM", "not JSON"],
)  # fmt: skip
async def test_no_request_is_sent_twice(answer: bytes, status: int, message: str) -> None:
    async with RawServer(answer) as server, forwarding(server.url) as station:
        job = await station.platform.ask({"messages": HI})
        assert len(server.requests) == 1
        if status == 200:
            assert job.output == ['{"truncated']
        else:
            assert job.failure["status"] == status
            assert message in job.failure["message"]


@pytest.mark.parametrize(
    "end", [b"", b'data: {"error": {"message": "cuda", "code": 500}}\n\ndata: [DONE]\n\n'],
    ids=["it stops", "it says so"],
)  # fmt: skip
async def test_a_broken_stream_is_an_error_and_is_not_restarted(end: bytes) -> None:
    answer = EVENTS + b'data: {"choices":[]}\r\n\r\n: comment\n\n' + end
    async with RawServer(answer) as server, forwarding(server.url) as station:
        job = await station.ask({"messages": HI, "stream": True}, completes=False)
        first, error, done = sse.frames("".join(job.pieces))
        assert (first, done) == ({"choices": []}, "[DONE]")
        assert error["error"]["message"] == job.failure["message"]
        assert len(server.requests) == 1
        assert job.failure["status"] == (500 if end else 502)


async def test_a_server_that_is_silent_for_too_long_is_given_up() -> None:
    async with RawServer(None) as server, forwarding(server.url, SGLANG_TIMEOUT="0.1") as station:
        job = await station.ask({"messages": HI}, completes=False)
        assert job.failure["status"] == 504
        assert "SGLANG_TIMEOUT" in job.failure["message"]


async def test_a_server_that_does_not_listen_is_reported_as_unreachable() -> None:
    async with RawServer() as server:
        url = server.url
    async with forwarding(url) as station:
        job = await station.ask({"messages": HI}, completes=False)
        assert job.failure["status"] == 503


async def test_an_answer_over_the_size_limit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.runpod.upstream._MAX_WHOLE_BYTES", 1000)
    monkeypatch.setattr("app.runpod.upstream._MAX_EVENT_BYTES", 1000)
    too_much = b"x" * 2000
    async with (
        RawServer(JSON + too_much, EVENTS + too_much) as server,
        forwarding(server.url) as station,
    ):
        for stream in (False, True):
            job = await station.ask({"messages": HI, "stream": stream}, completes=False)
            assert job.failure["status"] == 502


async def test_the_warm_up_sends_one_request_and_may_fail() -> None:
    variables = {"WARMUP_PROMPT": "wake", "WARMUP_MAX_TOKENS": "2", "WARMUP_MODEL": "m"}
    async with RawServer(JSON + b"{}", b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n") as server:
        backend = UpstreamBackend(settings(SGLANG_BASE_URL=server.url, **variables))
        with structlog.testing.capture_logs() as logged:
            await backend.warm_up()
            await backend.warm_up()
        await backend.close()
        wake = [{"role": "user", "content": "wake"}]
        assert server.body(0) == {"model": "m", "messages": wake, "max_tokens": 2}
        assert [line["event"] for line in logged] == ["warmed up", "warm-up failed"]


def test_a_base_url_without_a_scheme_stops_the_start() -> None:
    with pytest.raises(ConfigError, match="SGLANG_BASE_URL"):
        UpstreamBackend(settings(SGLANG_BASE_URL="sglang:30000"))
