"""What a client may send: each bound just inside and just outside, on raw sockets."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.dialects.body import read
from app.dialects.json_shape import shape
from app.dialects.openai.completions import CompletionBody
from app.errors import InvalidRequest
from app.lifecycle import Phase
from app.web import connection as protocol
from app.web import generation as replies
from app.web.connection import BoundedHttp
from tests.support.scripted import ScriptedEngine
from tests.support.serving import Running, eventually, serve

GET = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"
CHAT = b'{"messages":[{"role":"user","content":"hi"}]}'
STREAM = b'{"messages":[{"role":"user","content":"hi"}],"stream":true}'


class Wire:
    """One connection, as a client's kernel has it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def sent(self, data: bytes) -> None:
        """Raises ConnectionError if the other side is gone."""
        for at in range(0, len(data), 10_000):
            self._writer.write(data[at : at + 10_000])
            await self._writer.drain()
            await asyncio.sleep(0.001)  # a reset is only seen by who lets the loop look

    async def never_stop_sending(self) -> None:
        """Raises ConnectionError when the other side has gone."""
        async with asyncio.timeout(5):
            while True:
                self._writer.write(b"x")
                await self._writer.drain()
                await asyncio.sleep(0.01)  # a reset is only seen by who lets the loop look

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer: status, headers, body (one with a content-length)."""
        async with asyncio.timeout(5):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
            status, *lines = head.strip().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines)
            body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        return int(status.split()[1]), headers, body

    async def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        async with asyncio.timeout(5):
            return await self._reader.read()

    async def refusal(self) -> tuple[int, str, str]:
        """Status, code and message of an error after which the connection ends."""
        status, headers, body = await self.answer()
        assert headers["connection"] == "close"
        assert headers["content-type"] == "application/json"
        error = json.loads(body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert await self.rest() == b""
        return status, error["code"], error["message"]


@asynccontextmanager
async def connect(running: Running) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


def post(body: bytes, *headers: bytes, path: bytes = b"/v1/chat/completions") -> bytes:
    fields = b"".join(header + b"\r\n" for header in (b"host: x", *headers))
    return b"POST %b HTTP/1.1\r\ncontent-length: %d\r\n%b\r\n%b" % (path, len(body), fields, body)


def get_of(size: int, *, path: bytes = b"/livez") -> bytes:
    """A request whose path and fields (name, value, and four for `: ` and the line's end) have
    `size` bytes."""
    padding = size - len(path) - len(b"host") - len(b"x") - 4 - len(b"x-padding") - 4
    return b"GET %b HTTP/1.1\r\nhost: x\r\nx-padding: %b\r\n\r\n" % (path, b"y" * padding)


# -- the head --------------------------------------------------------------------------------------


async def test_a_heads_size_is_bounded_to_the_byte() -> None:
    async with serve(ScriptedEngine("x")) as running, connect(running) as wire:
        largest = get_of(16 * 1024)
        for cut in (1, 5000, len(largest) - 1, len(largest)):
            wire.send(largest[:cut])
            await asyncio.sleep(0.01)
            wire.send(largest[cut:])
            assert (await wire.answer())[0] == 200
        wire.send(get_of(16 * 1024 + 1))
        status, code, message = await wire.refusal()
    assert (status, code) == (431, "request_header_fields_too_large")
    assert "16384 bytes (MAX_HEADER_BYTES)" in message


async def test_the_fields_are_counted() -> None:
    async with serve(ScriptedEngine("x")) as running, connect(running) as wire:
        many = b"GET /livez HTTP/1.1\r\n" + b"".join(b"x-%d: y\r\n" % no for no in range(100))
        wire.send(many + b"\r\n")
        assert (await wire.answer())[0] == 200
        wire.send(many + b"one: more\r\n\r\n")
        status, _, message = await wire.refusal()
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
async def test_a_head_without_end_is_refused_before_it_ends(head: bytes, piece: int) -> None:
    async with (
        serve(ScriptedEngine("x"), MAX_HEADER_BYTES="1000") as running,
        connect(running) as wire,
    ):
        for at in range(0, len(head), piece):
            wire.send(head[at : at + piece])
            await asyncio.sleep(0)
        assert (await wire.refusal())[0] == 431


async def test_a_flood_is_refused_without_being_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = 0
    parse = BoundedHttp._parse

    def counted(self: BoundedHttp, data: bytes) -> None:
        nonlocal parsed
        parsed += len(data)
        parse(self, data)

    monkeypatch.setattr(BoundedHttp, "_parse", counted)
    async with serve(ScriptedEngine("x")) as running, connect(running) as wire:
        wire.send(b"GET / HTTP/1.1\r\nx: " + b"y" * 1_000_000)
        assert (await wire.refusal())[0] == 431
    assert 16 * 1024 < parsed <= 16 * 1024 + 256 * 1024  # what one read brought


@pytest.mark.parametrize("head", [b"GET /", b"GET / HTTP/1.1\r\nhost: x\r\n"])
async def test_a_head_has_a_deadline_that_more_bytes_do_not_move(head: bytes) -> None:
    async with (
        serve(ScriptedEngine("x"), HEADER_TIMEOUT="0.3") as running,
        connect(running) as wire,
    ):
        began = time.monotonic()
        wire.send(head)
        asking = asyncio.create_task(wire.refusal())
        while not asking.done():
            await asyncio.sleep(0.02)
            wire.send(b"x")
            assert time.monotonic() - began < 2
        status, code, message = await asking
    assert (status, code) == (408, "request_timeout")
    assert "0.3 s (HEADER_TIMEOUT)" in message
    assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize("sent", [b"", b"\r\n"])
async def test_a_connection_that_asks_nothing_ends_without_a_word(sent: bytes) -> None:
    async with (
        serve(ScriptedEngine("x"), HEADER_TIMEOUT="0.2") as running,
        connect(running) as wire,
    ):
        wire.send(sent)
        assert await wire.rest() == b""


async def test_on_an_open_connection_the_deadline_counts_from_the_next_requests_first_byte() -> (
    None
):
    async with (
        serve(ScriptedEngine("x"), HEADER_TIMEOUT="0.4") as running,
        connect(running) as wire,
    ):
        for _ in range(2):
            await asyncio.sleep(0.3)
            wire.send(GET[:9])
            await asyncio.sleep(0.3)
            wire.send(GET[9:])
            assert (await wire.answer())[0] == 200
        wire.send(GET[:9])
        assert (await wire.refusal())[0] == 408


async def test_the_deadline_leaves_an_answer_alone_and_what_comes_behind_it() -> None:
    async with (
        serve(ScriptedEngine("a", 0.5, "b"), HEADER_TIMEOUT="0.2") as running,
        connect(running) as wire,
    ):
        wire.send(post(CHAT) + GET[:9])
        status, _, body = await wire.answer()
        assert (status, json.loads(body)["choices"][0]["message"]["content"]) == (200, "ab")
        wire.send(GET[9:])
        assert (await wire.answer())[0] == 200
        wire.send(post(CHAT) + GET[:9])
        await wire.answer()
        wire.send(GET[9:12])
        assert (await wire.refusal())[0] == 408


async def test_many_slow_heads_do_not_disturb_a_request_and_leave_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connections: list[Any] = []
    connection_made = BoundedHttp.connection_made

    def remembered(self: Any, transport: asyncio.Transport) -> None:
        connections.append(self)
        connection_made(self, transport)

    monkeypatch.setattr(BoundedHttp, "connection_made", remembered)
    async with serve(ScriptedEngine("x"), HEADER_TIMEOUT="1") as running:
        wires = [
            await asyncio.open_connection("127.0.0.1", running.port) for _ in range(200)
        ]  # fmt: skip
        for _, writer in wires:
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\n")
        began = time.monotonic()
        assert (await running.chat()).status_code == 200
        assert time.monotonic() - began < 0.5
        await eventually(lambda: running.gate.in_flight == 0)
        async with asyncio.timeout(5):
            answers = [await reader.read() for reader, _ in wires]
        for _, writer in wires:
            writer.close()
        lost = connections[:200]
        await eventually(lambda: not lost[0].connections.intersection(lost))
        assert not any(each._deadline for each in lost)
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
async def test_what_is_not_http_gets_the_apis_error(sent: bytes) -> None:
    async with serve(ScriptedEngine("x")) as running:
        for before in (b"", GET):
            async with connect(running) as wire:
                if before:
                    wire.send(before)
                    await wire.answer()
                wire.send(sent)
                assert (await wire.refusal())[:2] == (400, "invalid_http_request")


# -- requests behind each other --------------------------------------------------------------------


async def test_requests_sent_together_are_answered_in_order() -> None:
    async with serve(ScriptedEngine("x")) as running, connect(running) as wire:
        wire.send(GET + post(CHAT) + GET.replace(b"livez", b"nowhere") + post(CHAT) + GET)
        assert [(await wire.answer())[0] for _ in range(5)] == [200, 200, 404, 200, 200]


@pytest.mark.parametrize("behind", [get_of(20_000), b"nonsense\r\n\r\n"])
async def test_a_refusal_does_not_break_into_an_answer(behind: bytes) -> None:
    async with serve(ScriptedEngine("a", 0.1, "b")) as running:
        async with connect(running) as wire:
            wire.send(post(STREAM) + behind)
            answer = await wire.rest()
        await eventually(lambda: running.gate.in_flight == 0)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_only_so_many_requests_may_be_ahead_of_their_answers() -> None:
    async with serve(ScriptedEngine("x")) as running, connect(running) as wire:
        wire.send(GET * 5000)
        answers = await wire.rest()
    assert answers.count(b"HTTP/1.1 200 ") == protocol._MAX_PIPELINED + 1


async def test_a_request_that_breaks_off_behind_an_answer_takes_no_place() -> None:
    gate = asyncio.Event()
    broken = post(b"").replace(b"content-length: 0", b"transfer-encoding: chunked") + b"nonsense"
    engine = ScriptedEngine("a", gate)
    async with serve(engine) as running, connect(running) as wire:
        wire.send(post(STREAM))
        await eventually(lambda: engine.running == 1)
        wire.send(broken)
        await eventually(lambda: any(each._refused for each in running.connections))
        gate.set()
        answer = await wire.rest()
        assert running.gate.in_flight == 0
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_one_who_leaves_with_requests_ahead_gives_all_their_places_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = ScriptedEngine("a", asyncio.Event())
    async with serve(engine) as running:
        async with connect(running) as wire:
            wire.send(post(STREAM) + post(STREAM))
            await eventually(lambda: engine.running == 1)
        await eventually(lambda: engine.running == 0 and running.gate.in_flight == 0)
        assert (engine.aborted, len(engine.calls)) == (1, 1)
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


# -- an upgrade that is offered --------------------------------------------------------------------

UPGRADE = b"connection: Upgrade, HTTP2-Settings"
H2C = (UPGRADE, b"upgrade: h2c", b"http2-settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA")


def in_pieces(body: bytes, *headers: bytes) -> bytes:
    pieces = b"".join(
        b"%x\r\n%b\r\n" % (len(piece), piece)
        for piece in (body[at : at + 20] for at in range(0, len(body), 20))
    )
    head = post(b"", *headers).replace(b"content-length: 0", b"transfer-encoding: chunked")
    return head + pieces + b"0\r\n\r\n"


@pytest.mark.parametrize("way", [post, in_pieces])
@pytest.mark.parametrize("cut", ["whole", "behind the head", "everywhere"])
async def test_a_request_that_offers_an_upgrade_is_answered_without(way: Any, cut: str) -> None:
    """As Java's HttpClient does with every request."""
    request = way(CHAT, *H2C)
    async with serve(ScriptedEngine("x")) as running, connect(running) as wire:
        for _ in range(3):
            if cut == "whole":
                wire.send(request)
            elif cut == "behind the head":
                head, body = request.split(b"\r\n\r\n", 1)
                wire.send(head + b"\r\n\r\n")
                await asyncio.sleep(0.02)
                wire.send(body)
            else:
                for at in range(len(request)):
                    wire.send(request[at : at + 1])
                    await asyncio.sleep(0)
            status, _, body = await wire.answer()
            assert (status, json.loads(body)["choices"][0]["message"]["content"]) == (200, "x")
        wire.send(request + get_of(100) + request + b"GET / HTTP/1.1\r\nbad header\r\n\r\n")
        assert [(await wire.answer())[0] for _ in range(3)] == [200, 200, 200]


@pytest.mark.parametrize("upgrade", [b"websocket", b"h2c"])
async def test_an_upgrade_without_a_body_is_ignored(upgrade: bytes) -> None:
    request = GET.replace(b"\r\n\r\n", b"\r\n%b\r\nupgrade: %b\r\n\r\n" % (UPGRADE, upgrade))
    async with serve(ScriptedEngine("x")) as running, connect(running) as wire:
        wire.send(request + GET + post(CHAT))
        assert [(await wire.answer())[0] for _ in range(3)] == [200, 200, 200]


async def test_an_upgrade_with_a_body_of_length_0_ends_there() -> None:
    request = post(b"", *H2C)
    async with serve(ScriptedEngine("x")) as running, connect(running) as wire:
        for _ in range(2):
            began = time.monotonic()
            wire.send(request)
            assert (await wire.answer())[0] == 400
            assert time.monotonic() - began < 2
            wire.send(post(CHAT))
            assert (await wire.answer())[0] == 200


async def test_a_head_with_an_upgrade_is_refused_for_what_any_other_is() -> None:
    async with serve(ScriptedEngine("x")) as running:
        for coding in (b"gzip", b""):
            async with connect(running) as wire:
                head = post(b"", *H2C).replace(
                    b"content-length: 0", b"transfer-encoding: " + coding
                )
                wire.send(head + b"xyz")
                assert (await wire.refusal())[:2] == (400, "invalid_http_request")
        async with connect(running) as wire:
            wire.send(post(CHAT, *H2C) + get_of(20_000))
            assert b"200 OK" in (answer := await wire.rest())
            assert answer.count(b"HTTP/1.1 ") == 1  # the refusal would break into it
        async with connect(running) as wire:
            wire.send(post(CHAT, *H2C))
            assert (await wire.answer())[0] == 200
            wire.send(GET.replace(b"\r\n\r\n", b"\r\n%b\r\nupgrade: x\r\n\r\n" % UPGRADE))
            assert (await wire.answer())[0] == 200
            wire.send(get_of(20_000))
            assert (await wire.refusal())[0] == 431


async def test_nothing_is_a_request_behind_the_last_one() -> None:
    async with serve(ScriptedEngine("x")) as running, connect(running) as wire:
        wire.send(post(CHAT, b"upgrade: h2c", b"connection: upgrade, close") + post(CHAT))
        assert (await wire.rest()).count(b"HTTP/1.1 ") == 1
        assert len(running.engine.calls) == 1


async def test_what_a_head_with_an_upgrade_says_of_its_body_is_bounded_too() -> None:
    async with serve(ScriptedEngine("x"), MAX_BODY_BYTES="1024") as running:
        async with connect(running) as wire:
            wire.send(post(b"x" * 2000, *H2C))
            assert (await wire.answer())[0] == 413
            wire.send(GET)
            assert (await wire.answer())[0] == 200
        async with connect(running) as wire:
            wire.send(in_pieces(CHAT, *H2C)[:-3] + b"nonsense")
            assert (await wire.refusal())[:2] == (400, "invalid_http_request")


# -- the body --------------------------------------------------------------------------------------


async def test_a_slow_body_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "_BODY_GRACE_S", 0.2)
    async with serve(ScriptedEngine("x"), MIN_BODY_RATE="1000") as running:
        async with connect(running) as wire:
            request = post(CHAT + b" " * 1000)
            asking = asyncio.create_task(wire.refusal())
            for at in range(0, len(request), 7):
                wire.send(request[at : at + 7])
                await asyncio.sleep(0.02)
                if asking.done():
                    break
            status, code, message = await asking
        await eventually(lambda: running.gate.in_flight == 0)
    assert (status, code) == (408, "request_timeout")
    assert "1000 bytes a second (MIN_BODY_RATE)" in message


@pytest.mark.parametrize("rate", ["100", "0"])
async def test_a_body_that_comes_just_fast_enough_is_read(
    rate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replies, "_BODY_GRACE_S", 0.2)
    async with serve(ScriptedEngine("x"), MIN_BODY_RATE=rate) as running, connect(running) as wire:
        request = post(CHAT + b" " * 100)
        for at in range(0, len(request), 20):  # 400 a second
            wire.send(request[at : at + 20])
            await asyncio.sleep(0.05)
        assert (await wire.answer())[0] == 200


async def test_a_body_has_a_deadline_however_fast_it_comes() -> None:
    async with serve(ScriptedEngine("x"), BODY_TIMEOUT="0.3") as running, connect(running) as wire:
        wire.send(b"POST /v1/completions HTTP/1.1\r\ncontent-length: 900000\r\n\r\n")
        asking = asyncio.create_task(wire.refusal())
        while not asking.done():
            wire.send(b" " * 1000)
            await asyncio.sleep(0.02)
        status, _, message = await asking
    assert status == 408
    assert "0.3 s (BODY_TIMEOUT)" in message


def chunked(body: bytes, size: int, *, end: bytes = b"0\r\n\r\n") -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in pieces) + end


async def test_a_body_in_crumbs_is_cheap_and_bounded() -> None:
    async with serve(ScriptedEngine("x")) as running:
        for size, expected in ((65_536, 200), (500_000, 413)):
            wire_bytes = chunked(CHAT.ljust(size), 1)
            async with connect(running) as wire:
                began = time.thread_time()
                wire.send(wire_bytes)
                status, _, body = await wire.answer()
                spent = time.thread_time() - began
            assert status == expected, body
            print(f"{len(wire_bytes)} bytes in crumbs: {status} in {spent * 1e3:.0f} ms")
            assert spent < 0.5
        await eventually(lambda: running.gate.in_flight == 0)


@pytest.mark.parametrize("header", [b"host: x", b"expect: 100-continue"])
async def test_a_body_that_breaks_off_in_nonsense_gets_one_answer(header: bytes) -> None:
    async with serve(ScriptedEngine("x")) as running:
        async with connect(running) as wire:
            broken = chunked(CHAT, 10, end=b"nonsense\r\n")
            wire.send(broken.replace(b"host: x", header))
            assert (await wire.refusal())[:2] == (400, "invalid_http_request")
        await eventually(lambda: running.gate.in_flight == 0)
        assert running.engine.calls == []


async def test_trailers_are_bounded_and_are_no_headers() -> None:
    key = b"authorization: Bearer secret\r\n"
    async with serve(ScriptedEngine("x"), API_KEY="secret") as running, connect(running) as wire:
        wire.send(chunked(CHAT, 100, end=b"0\r\n" + key + b"\r\n"))
        assert (await wire.answer())[0] == 401
    async with serve(ScriptedEngine("x")) as running:
        for flood in (b"x: y\r\n" * 102, b"x: " + b"y" * 20_000):
            async with connect(running) as wire:
                wire.send(chunked(CHAT, 100, end=b"0\r\n"))
                await asyncio.sleep(0.02)
                wire.send(flood)
                assert (await wire.refusal())[0] == 431
            await eventually(lambda: running.gate.in_flight == 0)


async def test_the_rest_of_a_body_that_is_answered_does_not_hold_the_connection() -> None:
    async with (
        serve(ScriptedEngine("x"), HEADER_TIMEOUT="0.3") as running,
        connect(running) as wire,
    ):
        wire.send(b"POST /v1/completions HTTP/1.1\r\ncontent-length: 9000000\r\n\r\n")
        assert (await wire.answer())[0] == 413
        ended = asyncio.create_task(wire.rest())
        for _ in range(50):
            wire.send(b"x")
            await asyncio.sleep(0.02)
            if ended.done():
                break
        assert ended.done()
        assert ended.exception() is not None or ended.result() == b""


async def test_a_last_answer_arrives_though_the_body_was_not_read() -> None:
    async with serve(ScriptedEngine("x"), MAX_BODY_BYTES="1024") as running:
        for status, said in ((413, b"connection: close"), (503, b"x-draining: yes")):
            async with connect(running) as wire:
                # More than the server reads at once: what it leaves is in the socket's buffer.
                wire.send(post(b"x" * 2_000_000, said))
                assert (await wire.refusal())[0] == status
            running.lifecycle.enter(Phase.DRAINING)


async def test_a_last_answer_is_not_cut_for_what_comes_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "_LINGER_S", 0.1)
    text = "x" * 40_000_000  # more than the sockets' buffers take
    async with serve(ScriptedEngine(text)) as running, connect(running) as wire:
        wire.send(post(CHAT) + b"nonsense\r\n\r\n")
        await asyncio.sleep(0.5)  # five times as long as it lingers, and nothing is read
        answer = await wire.rest()
    assert answer.count(text.encode()) == 1


async def test_the_servers_end_lets_a_refusal_be_read() -> None:
    async with (
        serve(ScriptedEngine("x"), MAX_BODY_BYTES="1024") as running,
        connect(running) as wire,
    ):
        wire.send(post(b"x" * 2_000_000, b"connection: close")[:1_000_000])
        assert (await wire.answer())[0] == 413
        for each in list(running.connections):
            each.shutdown()
        await wire.sent(b"x" * 900_000)  # and is not reset, which would take the answer along


async def test_a_client_who_never_stops_sending_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "_LINGER_S", 0.3)
    async with (
        serve(ScriptedEngine("x"), MAX_BODY_BYTES="1024") as running,
        connect(running) as wire,
    ):
        wire.send(post(b"x" * 2_000_000, b"connection: close")[:1_000_000])
        assert (await wire.refusal())[0] == 413
        with pytest.raises(ConnectionError):
            await wire.never_stop_sending()


async def test_the_rest_of_a_body_that_is_answered_may_be_sent_and_then_more_asked() -> None:
    async with (
        serve(ScriptedEngine("x"), MAX_BODY_BYTES="1024") as running,
        connect(running) as wire,
    ):
        wire.send(post(b"x" * 300_000))
        assert (await wire.answer())[0] == 413
        wire.send(GET)
        assert (await wire.answer())[0] == 200


@pytest.mark.parametrize(
    "header",
    [
        b"accept: */*", b"content-type: application/json", b"content-type: text/plain",
        b"content-type: application/json; charset=utf-8", b"content-type: application/ld+json",
        b"content-type: application/x-www-form-urlencoded", b"content-type: multipart/form-data",
    ],
)  # fmt: skip
async def test_json_is_read_whatever_it_is_called(header: bytes) -> None:
    async with serve(ScriptedEngine("x")) as running, connect(running) as wire:
        wire.send(post(CHAT, header))
        assert (await wire.answer())[0] == 200


# -- the JSON --------------------------------------------------------------------------------------


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


@pytest.mark.parametrize(
    ("inside", "outside", "said"),
    [
        (nested(63), nested(64), "nested over 64 levels deep (MAX_JSON_DEPTH)"),
        (["s"] * 995, ["s"] * 996, "holds over 1000 values (MAX_JSON_NODES)"),
        ([None] * 995, [True] * 996, "holds over 1000 values (MAX_JSON_NODES)"),
        ([[]] * 995, [{}] * 996, "holds over 1000 values (MAX_JSON_NODES)"),
        ({str(n): "" for n in range(497)}, {str(n): "" for n in range(498)}, "MAX_JSON_NODES"),
        ([1] * 9959, [1] * 9960, "holds over 1000 values (MAX_JSON_NODES)"),
    ],
)
async def test_the_jsons_depth_and_size_are_bounded(inside: Any, outside: Any, said: str) -> None:
    async with serve(ScriptedEngine("x"), MAX_JSON_NODES="1000") as running:
        for extra, status in ((inside, 200), (outside, 400)):
            body = {"prompt": "x", "metadata": extra}  # the rest of it: four nodes
            answer = await running.client.post("/v1/completions", json=body)
            assert answer.status_code == status, answer.text
    assert answer.json()["error"]["code"] == "invalid_json"
    assert said in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "prompt", [[128_000] * 131_072, [[1] * 8192] * 64, [[n] for n in range(64)]]
)
async def test_prompts_of_token_ids_are_within_the_bounds(prompt: list[Any]) -> None:
    async with serve(ScriptedEngine("x")) as running:
        raw = json.dumps({"prompt": prompt}).encode()
        read(CompletionBody, raw, running.serving.bounds)


def counted(value: Any) -> tuple[int, int, int]:
    """Depth, nodes that are not numbers, and numbers of what a parser made."""
    match value:
        case dict() | list():
            parts = list(value.values() if isinstance(value, dict) else value)
            below = [counted(part) for part in parts]
            depth = max((depth for depth, _, _ in below), default=0)
            keys = len(value) if isinstance(value, dict) else 0
            return 1 + depth, 1 + keys + sum(n for _, n, _ in below), sum(n for _, _, n in below)
        case bool() | None | str():
            return 0, 1, 0
        case _:
            return 0, 0, 1


TEXTS = st.text() | st.text(alphabet='\\"[]{},: tfn\n\x00é')
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=40,
)  # fmt: skip


@hypothesis_settings(max_examples=200, deadline=None)
@given(VALUES, st.sampled_from([None, 0, 3]), st.booleans())
def test_the_shape_is_that_of_what_a_parser_makes(
    value: Any, indent: int | None, ascii_only: bool
) -> None:
    raw = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    depth, nodes, numbers = counted(value)
    assert shape(raw, 10**9) == (depth, nodes + numbers // 10)
    if nodes:
        assert shape(raw, nodes - 1).nodes > nodes - 1


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.text(alphabet='\\"[]{},:1 tfn\n') | st.binary())
def test_what_is_not_json_has_some_shape_and_hides_nothing(text: str | bytes) -> None:
    raw = text if isinstance(text, bytes) else text.encode()
    depth, nodes = shape(raw, 10**9)
    assert depth <= nodes
    try:
        value = json.loads(raw)
    except ValueError:
        return
    assert depth == counted(value)[0]


SIZE = 4 * 1024 * 1024
HOSTILE = [
    b'"', b"\\", b'\\"', b'\\\\"', b"\\\\a", b'"\\', b'ab\\"c', b"[", b"]", b"{", b"[]", b"[],",
    b"{}]", b",", b":", b" ", b"t", b"0,", b'"",', b'{"a":[true,null,1.5,"\\\\\\"x"]},', b"\xff",
]  # fmt: skip


@pytest.mark.parametrize("start", [b"", b'"', b'{"a":"'])
@pytest.mark.parametrize("pattern", HOSTILE)
def test_measuring_takes_no_longer_for_what_is_hostile(pattern: bytes, start: bytes) -> None:
    raw = (start + pattern * (SIZE // len(pattern)))[:SIZE]

    def measuring_s() -> float:
        began = time.thread_time()
        shape(raw, 100_000)
        return time.thread_time() - began

    assert any(measuring_s() < 0.1 for _ in range(3))


def test_the_dearest_shape_within_the_bounds_is_cheap_to_measure_and_refuse() -> None:
    raw = b"[" * 100_000 + b"]" * 100_000
    began = time.thread_time()
    assert shape(raw, 100_000) == (100_000, 100_000)
    assert time.thread_time() - began < 0.1


async def test_what_is_too_deep_is_refused_with_its_bound_and_not_parsed() -> None:
    async with serve(ScriptedEngine("x")) as running:
        with pytest.raises(InvalidRequest, match="MAX_JSON_DEPTH"):
            read(CompletionBody, b"[" * 65 + b"]" * 65, running.serving.bounds)
        with pytest.raises(InvalidRequest, match="must be a JSON object"):
            read(CompletionBody, b"[" * 64 + b"]" * 64, running.serving.bounds)


# -- uvicorn ---------------------------------------------------------------------------------------


async def test_uvicorn_is_still_as_the_protocol_takes_it_to_be() -> None:
    config = uvicorn.Config(app=lambda *_: None, http=HttpToolsProtocol)
    theirs = HttpToolsProtocol(config, ServerState(), {})
    overridden = {
        "connection_made", "connection_lost", "data_received", "shutdown", "_should_upgrade",
        "_start_asgi_task", "on_message_begin", "on_url", "on_header", "on_headers_complete",
        "on_body", "on_message_complete", "timeout_keep_alive_handler",
    }  # fmt: skip
    for name, ours in vars(BoundedHttp).items():
        if name in overridden:
            signature = inspect.signature(getattr(HttpToolsProtocol, name))
            assert list(inspect.signature(ours).parameters) == list(signature.parameters)
        elif not name.startswith("__"):
            assert not hasattr(theirs, name), f"{name} is uvicorn's too by now"
    for used in (
        "cycle", "flow", "pipeline", "transport", "loop", "client", "server_state",
        "_unset_keepalive_if_required",
    ):  # fmt: skip
        assert hasattr(theirs, used)
    cycle = inspect.getsource(RequestResponseCycle.__init__)
    for used in (
        "response_complete", "response_started", "keep_alive", "disconnected", "message_event",
        "waiting_for_100_continue",
    ):  # fmt: skip
        assert f"self.{used} = " in cycle
    of_a_transport = r"self\.transport\.(\w+)"
    assert set(re.findall(of_a_transport, inspect.getsource(RequestResponseCycle))) <= {
        "close", "is_closing", "write",
    }  # fmt: skip
    received = inspect.getsource(HttpToolsProtocol.data_received)
    assert set(re.findall(r"self\.(\w+)\(", received)) == {  # ours does the first alone
        "_unset_keepalive_if_required", "send_400_response", "_should_upgrade",
        "handle_websocket_upgrade", "_unsupported_upgrade_warning",
    }  # fmt: skip
    assert "lenient_data_after_close=True" in inspect.getsource(HttpToolsProtocol.__init__)
    assert httptools_impl.STATUS_LINE[431].startswith(b"HTTP/1.1 431 ")
