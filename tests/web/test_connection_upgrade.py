"""Requests that offer an upgrade, on raw sockets: they are answered without it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.support.raw_client import CHAT, GET, connect, get_of, post, post_chunked
from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve

UPGRADE = b"connection: Upgrade, HTTP2-Settings"
H2C = (UPGRADE, b"upgrade: h2c", b"http2-settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA")


@pytest.mark.parametrize("way", [post, post_chunked])
@pytest.mark.parametrize("cut", ["whole", "behind the head", "everywhere"])
async def test_a_request_that_offers_an_upgrade_is_answered_without_it(way: Any, cut: str) -> None:
    """As Java's HttpClient does with every request."""
    request = way(CHAT, *H2C)
    async with serve(ScriptedEngine("x")) as running, connect(running) as client:
        for _ in range(3):
            if cut == "whole":
                client.send(request)
            elif cut == "behind the head":
                head, body = request.split(b"\r\n\r\n", 1)
                client.send(head + b"\r\n\r\n")
                await asyncio.sleep(0.02)
                client.send(body)
            else:
                for at in range(len(request)):
                    client.send(request[at : at + 1])
                    await asyncio.sleep(0)
            status, _, body = await client.answer()
            assert (status, json.loads(body)["choices"][0]["message"]["content"]) == (200, "x")
        client.send(request + get_of(100) + request + b"GET / HTTP/1.1\r\nbad header\r\n\r\n")
        assert [(await client.answer())[0] for _ in range(3)] == [200, 200, 200]


@pytest.mark.parametrize("upgrade", [b"websocket", b"h2c"])
async def test_an_upgrade_without_a_body_is_ignored(upgrade: bytes) -> None:
    request = GET.replace(b"\r\n\r\n", b"\r\n%b\r\nupgrade: %b\r\n\r\n" % (UPGRADE, upgrade))
    async with serve(ScriptedEngine("x")) as running, connect(running) as client:
        client.send(request + GET + post(CHAT))
        assert [(await client.answer())[0] for _ in range(3)] == [200, 200, 200]


async def test_a_request_with_an_upgrade_and_an_empty_body_is_complete_at_once() -> None:
    request = post(b"", *H2C)
    # Longer than the client waits: the answer does not come because one of them is over.
    timeouts = {"HEADER_TIMEOUT": "300", "BODY_TIMEOUT": "300", "MIN_BODY_RATE": "0"}
    async with serve(ScriptedEngine("x"), **timeouts) as running, connect(running) as client:
        for _ in range(2):
            client.send(request)
            assert (await client.answer())[0] == 400
            client.send(post(CHAT))
            assert (await client.answer())[0] == 200


async def test_a_head_with_an_upgrade_is_refused_like_any_other() -> None:
    async with serve(ScriptedEngine("x")) as running:
        for coding in (b"gzip", b""):
            async with connect(running) as client:
                head = post(b"", *H2C).replace(
                    b"content-length: 0", b"transfer-encoding: " + coding
                )
                client.send(head + b"xyz")
                assert (await client.refusal())[:2] == (400, "invalid_http_request")
        async with connect(running) as client:
            client.send(post(CHAT, *H2C) + get_of(20_000))
            assert b"200 OK" in (answer := await client.rest())
            assert answer.count(b"HTTP/1.1 ") == 1  # the refusal would break into it
        async with connect(running) as client:
            client.send(post(CHAT, *H2C))
            assert (await client.answer())[0] == 200
            client.send(GET.replace(b"\r\n\r\n", b"\r\n%b\r\nupgrade: x\r\n\r\n" % UPGRADE))
            assert (await client.answer())[0] == 200
            client.send(get_of(20_000))
            assert (await client.refusal())[0] == 431


async def test_bytes_behind_connection_close_are_not_a_request() -> None:
    async with serve(ScriptedEngine("x")) as running, connect(running) as client:
        client.send(post(CHAT, b"upgrade: h2c", b"connection: upgrade, close") + post(CHAT))
        assert (await client.rest()).count(b"HTTP/1.1 ") == 1
        assert len(running.engine.calls) == 1


async def test_the_body_of_a_request_with_an_upgrade_is_bounded_too() -> None:
    async with serve(ScriptedEngine("x"), MAX_BODY_BYTES="1024") as running:
        async with connect(running) as client:
            client.send(post(b"x" * 2000, *H2C))
            assert (await client.answer())[0] == 413
            client.send(GET)
            assert (await client.answer())[0] == 200
        async with connect(running) as client:
            client.send(post_chunked(CHAT, *H2C)[:-3] + b"nonsense")
            assert (await client.refusal())[:2] == (400, "invalid_http_request")
