"""Requests sent before earlier ones are answered, on raw sockets."""

from __future__ import annotations

import asyncio

import pytest

from app.web import connection
from tests.support.raw_client import CHAT, GET, STREAM, connect, get_of, post
from tests.support.scripted import ScriptedEngine
from tests.support.serving import eventually, serve


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with serve(ScriptedEngine("x")) as running, connect(running) as client:
        client.send(GET + post(CHAT) + GET.replace(b"livez", b"nowhere") + post(CHAT) + GET)
        assert [(await client.answer())[0] for _ in range(5)] == [200, 200, 404, 200, 200]


@pytest.mark.parametrize("behind", [get_of(20_000), b"nonsense\r\n\r\n"])
async def test_a_refusal_does_not_break_into_an_answer(behind: bytes) -> None:
    async with serve(ScriptedEngine("a", 0.1, "b")) as running:
        async with connect(running) as client:
            client.send(post(STREAM) + behind)
            answer = await client.rest()
        await eventually(lambda: running.gate.in_flight == 0)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_the_number_of_pipelined_requests_is_bounded() -> None:
    async with serve(ScriptedEngine("x")) as running, connect(running) as client:
        client.send(GET * 5000)
        answers = await client.rest()
    assert answers.count(b"HTTP/1.1 200 ") == connection._MAX_PIPELINED + 1


async def test_a_pipelined_request_that_breaks_off_frees_its_slot() -> None:
    gate = asyncio.Event()
    broken = post(b"").replace(b"content-length: 0", b"transfer-encoding: chunked") + b"nonsense"
    engine = ScriptedEngine("a", gate)
    async with serve(engine) as running, connect(running) as client:
        client.send(post(STREAM))
        await eventually(lambda: engine.running == 1)
        client.send(broken)
        await eventually(lambda: any(each._refused for each in running.connections))
        gate.set()
        answer = await client.rest()
        assert running.gate.in_flight == 0
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_a_disconnect_frees_the_slots_of_all_pipelined_requests(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = ScriptedEngine("a", asyncio.Event())
    async with serve(engine) as running:
        async with connect(running) as client:
            client.send(post(STREAM) + post(STREAM))
            await eventually(lambda: engine.running == 1)
        await eventually(lambda: engine.running == 0 and running.gate.in_flight == 0)
        assert (engine.aborted, len(engine.calls)) == (1, 1)
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


async def test_a_disconnect_after_the_first_of_two_requests_ends_the_second() -> None:
    """The first one's answer waited to be read when the second one began."""
    scripts = iter([["x" * 20_000_000], [asyncio.Event()]])
    engine = ScriptedEngine(script=lambda _: next(scripts))
    body = b'{"messages":[{"role":"user","content":"hi"}]}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(
        body
    )
    async with serve(engine) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write((head + body) * 2)
        await eventually(lambda: len(engine.calls) == 2)
        read = 0
        while read < 20_000_000:
            read += len(await reader.read(65_536))
        await eventually(lambda: running.gate.in_flight == 1)
        writer.close()
        await eventually(lambda: engine.running == 0 and running.gate.in_flight == 0)
        await writer.wait_closed()
