"""Clients that disconnect, send or read slowly, or have no key; and the metrics of requests."""

from __future__ import annotations

import asyncio
import socket

import pytest

from app.errors import Draining, EngineDied
from app.lifecycle import Phase
from app.web.connection import BoundedHttp
from tests.support import sse
from tests.support.scripted import ScriptedEngine
from tests.support.serving import Running, eventually, serve

CHAT = "/v1/chat/completions"


async def _post_raw(running: Running, body: bytes) -> asyncio.StreamWriter:
    """Send a request on a connection of its own, which the caller can close at any moment."""
    _, writer = await asyncio.open_connection("127.0.0.1", running.port)
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    return writer


def _body(stream: bool) -> bytes:
    flag = b"true" if stream else b"false"
    return b'{"messages":[{"role":"user","content":"hi"}],"stream":%b}' % flag


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("steps", [0, 1], ids=["before the first token", "after it"])
async def test_a_disconnect_frees_slot_and_engine(stream: bool, steps: int) -> None:
    engine = ScriptedEngine(*["x"] * steps, asyncio.Event())
    async with serve(engine) as running:
        writer = await _post_raw(running, _body(stream))
        await eventually(lambda: engine.running == 1)
        writer.close()
        await eventually(lambda: engine.running == 0 and running.gate.in_flight == 0)
        assert engine.aborted == 1


async def test_a_disconnect_is_noticed_behind_a_large_body() -> None:
    """The server pauses reading while it holds over 64 KB of a body."""
    engine = ScriptedEngine(asyncio.Event())
    body = _body(False)[:-1] + b',"metadata":{"long":"%b"}}' % (b"x" * 200_000)
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    async with serve(engine) as running:
        _, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(head)
        await eventually(lambda: len(running.gate.arrivals) == 1)  # the server waits for the body
        writer.write(body)
        await eventually(lambda: engine.running == 1)
        writer.close()
        await eventually(lambda: engine.running == 0 and running.gate.in_flight == 0)
        assert engine.aborted == 1


async def test_a_request_whose_client_disconnects_in_the_queue_never_reaches_the_engine() -> None:
    engine = ScriptedEngine(asyncio.Event())
    async with serve(engine, MAX_CONCURRENCY="1", MAX_QUEUE="1") as running:
        first = await _post_raw(running, _body(True))
        await eventually(lambda: engine.running == 1)
        second = await _post_raw(running, _body(True))
        await eventually(lambda: running.gate.in_flight == 2)
        second.close()
        await eventually(lambda: running.gate.in_flight == 1)
        first.close()
        await eventually(lambda: running.gate.in_flight == 0)
        assert len(engine.calls) == 1


async def test_a_disconnect_in_the_middle_of_a_body_frees_the_slot() -> None:
    async with serve(ScriptedEngine("x")) as running:
        _, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{{".encode())
        await eventually(lambda: len(running.gate.arrivals) == 1)
        writer.close()
        await eventually(lambda: len(running.gate.arrivals) == 0)


async def test_a_client_that_sends_no_body_gets_a_timeout() -> None:
    async with serve(ScriptedEngine("x"), BODY_TIMEOUT="0.1") as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{{".encode())
        async with asyncio.timeout(3):
            assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        await eventually(lambda: len(running.gate.arrivals) == 0)
        writer.close()


async def test_a_client_that_does_not_read_is_disconnected(
    caplog: pytest.LogCaptureFixture, no_kernel_timeout: None, cut_off: list[BoundedHttp]
) -> None:
    engine = ScriptedEngine(*["x" * 100_000] * 400)
    async with serve(engine, HEARTBEAT_INTERVAL="0.1", WRITE_TIMEOUT="0.3") as running:
        writer = await _post_raw(running, _body(True))
        await eventually(lambda: engine.running == 1)
        await eventually(lambda: engine.running == 0 and running.gate.in_flight == 0)
        assert engine.aborted == 1
        # Nothing is buffered for the client any more, and uvicorn logs no error.
        await eventually(lambda: not running.connections)
        assert not [record for record in caplog.records if record.levelname == "ERROR"]
        assert len(cut_off) == 1
        writer.close()


async def test_a_whole_answer_has_its_place_until_it_is_read(
    no_kernel_timeout: None, cut_off: list[BoundedHttp]
) -> None:
    engine = ScriptedEngine(*["x" * 10_000] * 500)
    async with serve(engine, WRITE_TIMEOUT="1") as running:
        with socket.socket() as client:  # which never reads
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", running.port))
            body = _body(False)
            head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
            client.sendall(head.encode() + body)
            await eventually(lambda: len(engine.calls) == 1 and engine.running == 0)
            assert running.gate.in_flight == 1
            await eventually(lambda: running.gate.in_flight == 0 and not running.connections)
        assert len(cut_off) == 1


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("error", [EngineDied, Draining])
async def test_every_client_gets_the_error_that_ends_all_requests(
    stream: bool, error: type[EngineDied] | type[Draining]
) -> None:
    engine = ScriptedEngine("x", asyncio.Event())
    async with serve(engine) as running:
        requests = [asyncio.create_task(running.chat(stream=stream)) for _ in range(5)]
        await eventually(lambda: engine.running == 5)
        assert running.gate.end_all(lambda: error("it is over")) == 5
        answers = await asyncio.gather(*requests)
        assert running.gate.in_flight == 0
    for answer in answers:
        if stream:
            *_, last, done = sse.frames(answer.text)
            assert (last["error"]["code"], done) == (error.code, "[DONE]")
        else:
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == error.code
            assert int(answer.headers["retry-after"]) >= 1


async def test_requests_are_refused_before_ready_and_while_draining() -> None:
    async with serve(None) as running:
        refused = await running.chat()
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_not_ready")
        assert (await running.client.get("/v1/models")).status_code == 503
        assert (await running.client.get("/ping")).status_code == 204
    async with serve(ScriptedEngine("x")) as running:
        running.lifecycle.enter(Phase.DRAINING)
        refused = await running.chat()
        assert refused.json()["error"]["code"] == "server_shutting_down"
        assert refused.headers["connection"] == "close"
        assert (await running.client.get("/livez")).status_code == 200
        assert (await running.client.get("/readyz")).status_code == 503


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "Basic one"}, 401),
        ({"authorization": "Bearer one"}, 200),
        ({"authorization": "bearer two"}, 200),
        ({"x-api-key": "two"}, 200),
        ({"x-api-key": "two", "authorization": "Bearer wrong"}, 200),
        ({"authorization": b"Bearer \xff\xfe"}, 401),
    ],
)
async def test_the_api_needs_one_of_the_keys(headers: dict[str, str], status: int) -> None:
    async with serve(ScriptedEngine("x"), API_KEY="one,two") as running:
        running.client.headers.update(headers)
        answer = await running.chat()
        assert answer.status_code == status
        if status == 401:
            assert answer.json()["error"]["code"] == "invalid_api_key"
            assert answer.headers["www-authenticate"] == "Bearer"
            assert (await running.client.get("/metrics")).status_code == 401
        for path in ("/health", "/livez", "/readyz", "/ping", "/", "/docs"):
            assert (await running.client.get(path)).status_code == 200


async def test_browsers_may_call_only_from_the_configured_origins() -> None:
    preflight_headers = {"origin": "https://a.example", "access-control-request-method": "POST"}
    async with serve(ScriptedEngine("x")) as running:
        assert "access-control-allow-origin" not in (await running.chat()).headers
    async with serve(ScriptedEngine("x"), CORS_ORIGINS="https://a.example", API_KEY="k") as running:
        preflight = await running.client.options(CHAT, headers=preflight_headers)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://a.example"
        other = await running.client.options(
            CHAT, headers=preflight_headers | {"origin": "https://b.example"}
        )
        assert "access-control-allow-origin" not in other.headers


async def test_the_metrics_count_requests_and_tokens() -> None:
    async with serve(ScriptedEngine("x", "y")) as running:
        before = (await running.client.get("/metrics")).text
        await running.chat()
        await running.chat(n=-1)
        after = (await running.client.get("/metrics")).text
    name = 'serve_requests_total{code="%d",method="POST",route="/v1/chat/completions"}'
    for code in (200, 400):
        assert _value(after, name % code) == _value(before, name % code) + 1
    assert _value(after, "serve_completion_tokens_total") >= 2
    assert _value(after, 'serve_phase{phase="ready"}') == 1
    for series in (
        "serve_in_flight_requests", "serve_refused_total", "serve_time_to_first_token_seconds",
        "serve_inter_token_latency_seconds", "serve_client_disconnects_total",
        "serve_event_loop_lag_seconds",
    ):  # fmt: skip
        assert series in after


def _value(text: str, name: str) -> float:
    return sum(
        float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name + " ")
    )
