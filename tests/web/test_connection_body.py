"""A request's body on raw sockets: its bounds, its pace, and what happens when it is not read."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack

import pytest

from app.lifecycle import Phase
from app.web import bodies, connection
from tests.support.raw_client import CHAT, GET, connect, post, post_chunked
from tests.support.scripted import ScriptedEngine
from tests.support.serving import eventually, serve


async def test_a_body_slower_than_the_minimum_rate_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bodies, "_BODY_GRACE_S", 0.2)
    async with serve(ScriptedEngine("x"), MIN_BODY_RATE="1000") as running:
        async with connect(running) as client:
            request = post(CHAT + b" " * 1000)
            refusal = asyncio.create_task(client.refusal())
            for at in range(0, len(request), 7):
                client.send(request[at : at + 7])
                await asyncio.sleep(0.02)
                if refusal.done():
                    break
            status, code, message = await refusal
        await eventually(lambda: running.gate.in_flight == 0)
    assert (status, code) == (408, "request_timeout")
    assert "1000 bytes a second (MIN_BODY_RATE)" in message


@pytest.mark.parametrize("rate", ["100", "0"])
async def test_a_body_just_above_the_minimum_rate_is_read(
    rate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "_BODY_GRACE_S", 0.2)
    async with (
        serve(ScriptedEngine("x"), MIN_BODY_RATE=rate) as running,
        connect(running) as client,
    ):
        request = post(CHAT + b" " * 100)
        for at in range(0, len(request), 20):  # 400 a second
            client.send(request[at : at + 20])
            await asyncio.sleep(0.05)
        assert (await client.answer())[0] == 200


async def test_a_body_has_a_deadline_at_any_rate() -> None:
    async with (
        serve(ScriptedEngine("x"), BODY_TIMEOUT="0.3") as running,
        connect(running) as client,
    ):
        client.send(b"POST /v1/completions HTTP/1.1\r\ncontent-length: 900000\r\n\r\n")
        refusal = asyncio.create_task(client.refusal())
        while not refusal.done():
            client.send(b" " * 1000)
            await asyncio.sleep(0.02)
        status, _, message = await refusal
    assert status == 408
    assert "0.3 s (BODY_TIMEOUT)" in message


async def test_a_body_in_chunks_of_one_byte_is_cheap_and_bounded() -> None:
    async with serve(ScriptedEngine("x")) as running:
        for size, expected in ((65_536, 200), (500_000, 413)):
            request = post_chunked(CHAT.ljust(size), chunk_bytes=1)
            async with connect(running) as client:
                began = time.thread_time()
                client.send(request)
                status, _, body = await client.answer()
                spent = time.thread_time() - began
            assert status == expected, body
            print(f"{len(request)} bytes in chunks of 1: {status} in {spent * 1e3:.0f} ms")
            assert spent < 0.5
        await eventually(lambda: running.gate.in_flight == 0)


@pytest.mark.parametrize("header", [b"host: x", b"expect: 100-continue"])
async def test_a_body_that_breaks_off_in_nonsense_gets_one_answer(header: bytes) -> None:
    async with serve(ScriptedEngine("x")) as running:
        async with connect(running) as client:
            broken = post_chunked(CHAT, chunk_bytes=10, end=b"nonsense\r\n")
            client.send(broken.replace(b"host: x", header))
            assert (await client.refusal())[:2] == (400, "invalid_http_request")
        await eventually(lambda: running.gate.in_flight == 0)
        assert running.engine.calls == []


async def test_trailers_are_bounded_and_not_read_as_headers() -> None:
    key = b"authorization: Bearer secret\r\n"
    async with serve(ScriptedEngine("x"), API_KEY="secret") as running, connect(running) as client:
        client.send(post_chunked(CHAT, chunk_bytes=100, end=b"0\r\n" + key + b"\r\n"))
        assert (await client.answer())[0] == 401
    async with serve(ScriptedEngine("x")) as running:
        for flood in (b"x: y\r\n" * 102, b"x: " + b"y" * 20_000):
            async with connect(running) as client:
                client.send(post_chunked(CHAT, chunk_bytes=100, end=b"0\r\n"))
                await asyncio.sleep(0.02)
                client.send(flood)
                assert (await client.refusal())[0] == 431
            await eventually(lambda: running.gate.in_flight == 0)


async def test_a_slow_rest_of_an_answered_body_does_not_keep_the_connection_open() -> None:
    async with (
        serve(ScriptedEngine("x"), HEADER_TIMEOUT="0.3") as running,
        connect(running) as client,
    ):
        client.send(b"POST /v1/completions HTTP/1.1\r\ncontent-length: 9000000\r\n\r\n")
        assert (await client.answer())[0] == 413
        ended = asyncio.create_task(client.rest())
        for _ in range(50):
            client.send(b"x")
            await asyncio.sleep(0.02)
            if ended.done():
                break
        assert ended.done()
        assert ended.exception() is not None or ended.result() == b""


async def test_the_last_answer_arrives_though_the_body_was_not_read() -> None:
    async with serve(ScriptedEngine("x"), MAX_BODY_BYTES="1024") as running:
        for status, header in ((413, b"connection: close"), (503, b"x-draining: yes")):
            async with connect(running) as client:
                # More than the server reads at once: the rest stays unread in the socket's buffer.
                client.send(post(b"x" * 2_000_000, header))
                assert (await client.refusal())[0] == status
            running.lifecycle.enter(Phase.DRAINING)


async def test_bytes_behind_the_last_request_do_not_cut_its_answer_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "_LINGER_S", 0.1)
    text = "x" * 40_000_000  # more than the sockets' buffers take
    async with serve(ScriptedEngine(text)) as running, connect(running) as client:
        client.send(post(CHAT) + b"nonsense\r\n\r\n")
        await asyncio.sleep(0.5)  # five times _LINGER_S, in which nothing is read
        answer = await client.rest()
    assert answer.count(text.encode()) == 1


async def test_a_refusal_can_still_be_read_when_the_server_shuts_down() -> None:
    async with (
        serve(ScriptedEngine("x"), MAX_BODY_BYTES="1024") as running,
        connect(running) as client,
    ):
        client.send(post(b"x" * 2_000_000, b"connection: close")[:1_000_000])
        assert (await client.answer())[0] == 413
        for each in list(running.connections):
            each.shutdown()
        await client.send_all(b"x" * 900_000)  # no reset: the answer would be lost


async def test_a_client_that_never_stops_sending_is_disconnected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "_LINGER_S", 0.3)
    async with (
        serve(ScriptedEngine("x"), MAX_BODY_BYTES="1024") as running,
        connect(running) as client,
    ):
        client.send(post(b"x" * 2_000_000, b"connection: close")[:1_000_000])
        assert (await client.refusal())[0] == 413
        with pytest.raises(ConnectionError):
            await client.send_forever()


async def test_after_the_rest_of_an_answered_body_the_next_request_is_answered() -> None:
    async with (
        serve(ScriptedEngine("x"), MAX_BODY_BYTES="1024") as running,
        connect(running) as client,
    ):
        client.send(post(b"x" * 300_000))
        assert (await client.answer())[0] == 413
        client.send(GET)
        assert (await client.answer())[0] == 200


@pytest.mark.parametrize(
    "header",
    [
        b"accept: */*", b"content-type: application/json", b"content-type: text/plain",
        b"content-type: application/json; charset=utf-8", b"content-type: application/ld+json",
        b"content-type: application/x-www-form-urlencoded", b"content-type: multipart/form-data",
    ],
)  # fmt: skip
async def test_a_json_body_is_read_under_any_content_type(header: bytes) -> None:
    async with serve(ScriptedEngine("x")) as running, connect(running) as client:
        client.send(post(CHAT, header))
        assert (await client.answer())[0] == 200


@pytest.mark.parametrize("zeros", [1, 19, 4301, 15_000])
async def test_a_length_may_begin_with_zeros(zeros: int) -> None:
    async with serve(ScriptedEngine("x")) as running, connect(running) as client:
        length = b"0" * zeros + str(len(CHAT)).encode()
        client.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %b\r\n\r\n%b"
            % (length, CHAT)
        )
        assert (await client.answer())[0] == 200


async def test_a_length_too_large_for_any_number_is_refused() -> None:
    async with serve(ScriptedEngine("x")) as running, connect(running) as client:
        client.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 9999999999999999999"
            b"\r\n\r\n"
        )
        status, _, body = await client.answer()
    assert (status, json.loads(body)["error"]["code"]) == (413, "request_too_large")


async def test_clients_that_send_slowly_do_not_take_the_places_of_others() -> None:
    settings = {"MAX_CONCURRENCY": "2", "MAX_QUEUE": "2"}
    async with serve(ScriptedEngine("x"), **settings) as running, AsyncExitStack() as clients:
        request = post(CHAT + b" " * 1000)
        for _ in range(20):
            client = await clients.enter_async_context(connect(running))
            client.send(request[:100])
        await eventually(lambda: len(running.gate.arrivals) == 20)
        for _ in range(5):
            assert (await running.chat()).status_code == 200
        client.send(request[100:])
        assert (await client.answer())[0] == 200


async def test_the_longest_arriving_body_gives_way() -> None:
    async with (
        serve(ScriptedEngine("x"), MAX_ARRIVING_BODIES="2") as running,
        connect(running) as first,
        connect(running) as second,
    ):
        for no, client in enumerate((first, second)):
            client.send(post(CHAT)[:-1])
            await eventually(lambda count=no + 1: len(running.gate.arrivals) == count)
        assert (await running.chat()).status_code == 200
        status, _, body = await first.answer()
        assert status == 503
        assert json.loads(body)["error"]["code"] == "server_is_overloaded"
        second.send(post(CHAT)[-1:])
        assert (await second.answer())[0] == 200
