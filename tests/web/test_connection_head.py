"""A request's head on raw sockets: its bounds just inside and just outside, and its deadline."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from app.web.connection import BoundedHttp
from tests.support.raw_client import CHAT, GET, connect, get_of, post
from tests.support.scripted import ScriptedEngine
from tests.support.serving import HANGS_S, eventually, serve


async def test_the_size_of_a_head_is_bounded_to_the_byte() -> None:
    async with serve(ScriptedEngine("x")) as running, connect(running) as client:
        largest = get_of(16 * 1024)
        for cut in (1, 5000, len(largest) - 1, len(largest)):
            client.send(largest[:cut])
            await asyncio.sleep(0.01)
            client.send(largest[cut:])
            assert (await client.answer())[0] == 200
        client.send(get_of(16 * 1024 + 1))
        status, code, message = await client.refusal()
    assert (status, code) == (431, "request_header_fields_too_large")
    assert "16384 bytes (MAX_HEADER_BYTES)" in message


async def test_the_number_of_header_fields_is_bounded() -> None:
    async with serve(ScriptedEngine("x")) as running, connect(running) as client:
        many = b"GET /livez HTTP/1.1\r\n" + b"".join(b"x-%d: y\r\n" % no for no in range(100))
        client.send(many + b"\r\n")
        assert (await client.answer())[0] == 200
        client.send(many + b"one: more\r\n\r\n")
        status, _, message = await client.refusal()
    assert status == 431
    assert "100 fields (MAX_HEADERS)" in message


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * 2000,
        b"GET / HTTP/1.1\r\nx: " + b"y" * 2000,
        b"GET / HTTP/1.1\r\n" + b"y" * 2000,
        b"GET / HTTP/1.1\r\nx:" + b" " * 2000,
        b"\r\n" * 1000,
    ],
    ids=["line", "value", "name", "blanks", "empty lines"],
)
@pytest.mark.parametrize("piece", [7, 5000])
async def test_a_head_without_end_is_refused_once_it_is_too_large(head: bytes, piece: int) -> None:
    async with (
        serve(ScriptedEngine("x"), MAX_HEADER_BYTES="1000") as running,
        connect(running) as client,
    ):
        for at in range(0, len(head), piece):
            client.send(head[at : at + piece])
            await asyncio.sleep(0)
        assert (await client.refusal())[0] == 431


async def test_a_flood_of_header_bytes_is_refused_after_one_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed = 0
    parse = BoundedHttp._parse

    def counted(self: BoundedHttp, data: bytes) -> None:
        nonlocal parsed
        parsed += len(data)
        parse(self, data)

    monkeypatch.setattr(BoundedHttp, "_parse", counted)
    async with serve(ScriptedEngine("x")) as running, connect(running) as client:
        client.send(b"GET / HTTP/1.1\r\nx: " + b"y" * 1_000_000)
        assert (await client.refusal())[0] == 431
    assert 16 * 1024 < parsed <= 16 * 1024 + 256 * 1024  # what one read brought


@pytest.mark.parametrize("head", [b"GET /", b"GET / HTTP/1.1\r\nhost: x\r\n"])
async def test_more_bytes_do_not_extend_the_deadline_of_a_head(head: bytes) -> None:
    async with (
        serve(ScriptedEngine("x"), HEADER_TIMEOUT="0.3") as running,
        connect(running) as client,
    ):
        began = time.monotonic()
        client.send(head)
        refusal = asyncio.create_task(client.refusal())
        while not refusal.done():
            await asyncio.sleep(0.02)
            client.send(b"x")
        status, code, message = await refusal
    assert (status, code) == (408, "request_timeout")
    assert "0.3 s (HEADER_TIMEOUT)" in message
    assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize("sent", [b"", b"\r\n"])
async def test_a_connection_without_a_request_is_closed_without_an_answer(sent: bytes) -> None:
    async with (
        serve(ScriptedEngine("x"), HEADER_TIMEOUT="0.2") as running,
        connect(running) as client,
    ):
        client.send(sent)
        assert await client.rest() == b""


async def test_on_an_open_connection_the_deadline_starts_with_the_next_request() -> None:
    async with (
        serve(ScriptedEngine("x"), HEADER_TIMEOUT="1.2") as running,
        connect(running) as client,
    ):
        for _ in range(2):
            await asyncio.sleep(0.7)
            client.send(GET[:9])
            await asyncio.sleep(0.7)
            client.send(GET[9:])
            assert (await client.answer())[0] == 200
        client.send(GET[:9])
        assert (await client.refusal())[0] == 408


async def test_no_deadline_runs_while_an_answer_is_being_made() -> None:
    async with (
        serve(ScriptedEngine("a", 0.5, "b"), HEADER_TIMEOUT="0.2") as running,
        connect(running) as client,
    ):
        client.send(post(CHAT) + GET[:9])
        status, _, body = await client.answer()
        assert (status, json.loads(body)["choices"][0]["message"]["content"]) == (200, "ab")
        client.send(GET[9:])
        assert (await client.answer())[0] == 200
        client.send(post(CHAT) + GET[:9])
        await client.answer()
        client.send(GET[9:12])
        assert (await client.refusal())[0] == 408


async def test_many_slow_heads_do_not_delay_a_request_and_leave_no_timer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connections: list[Any] = []
    connection_made = BoundedHttp.connection_made

    def remembered(self: Any, transport: asyncio.Transport) -> None:
        connections.append(self)
        connection_made(self, transport)

    monkeypatch.setattr(BoundedHttp, "connection_made", remembered)
    async with serve(ScriptedEngine("x"), HEADER_TIMEOUT="1") as running:
        clients = []
        for _ in range(200):
            reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
            # At once: what is written after the server has closed resets the connection.
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\n")
            clients.append((reader, writer))
        assert (await running.chat()).status_code == 200
        await eventually(lambda: running.gate.in_flight == 0)
        async with asyncio.timeout(HANGS_S):
            answers = [await reader.read() for reader, _ in clients]
        for _, writer in clients:
            writer.close()
        lost = connections[:200]
        await eventually(lambda: not lost[0].connections.intersection(lost))
        assert not any(each._deadline.timer for each in lost)
    assert all(answer.startswith(b"HTTP/1.1 408 ") for answer in answers)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"nonsense\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_answered_with_the_apis_error(sent: bytes) -> None:
    async with serve(ScriptedEngine("x")) as running:
        for before in (b"", GET):
            async with connect(running) as client:
                if before:
                    client.send(before)
                    await client.answer()
                client.send(sent)
                assert (await client.refusal())[:2] == (400, "invalid_http_request")
