"""Routes to what is kept: whatever is asked of them is answered, and never with a 5xx."""

from __future__ import annotations

import asyncio
import random
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from app.dialects.routes import RESOURCES
from app.web.connection import BoundedHttp
from tests.support.scripted import ScriptedEngine
from tests.support.serving import eventually, serve

STRANGE = [
    "", "0", "-1", "1", "99", "100", "101", "0001" + "9" * 40, "1e9", "true", "TRUE", "desc", "asc",
    "x" * 3000, "\0", "é", "🌦️", "../..", "%2e%2e", "resp_1", "conv_1", "msg_" + "0" * 36,
    "' OR 1=1 --",
]  # fmt: skip
ITEMS = [
    {"role": "user", "content": "hi"}, {"id": "rs_1"}, {"type": "compaction"}, {}, None, "x",
    {"type": "function_call", "call_id": "c", "name": "n", "arguments": "{"},
    {"type": "function_call_output", "call_id": "other", "output": [{"type": "input_image"}]},
    {"type": "additional_tools", "tools": [{"type": "function", "name": "x"}]},
    {"role": "user", "content": "\0\ud7ff"},
]  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
async def test_strange_requests_are_answered_and_harm_nothing(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    async with serve(ScriptedEngine("x"), FILE_STORAGE_PATH=str(tmp_path)) as running:
        client = running.client
        body = {"model": "default", "input": [{"role": "user", "content": "hi"}] * 3}
        response = (await client.post("/v1/responses", json=body)).json()
        made = (await client.post("/v1/conversations", json={"items": ITEMS[:1]})).json()
        sent = {"files": {"file": ("a", b"x")}, "data": {"purpose": "batch"}}
        file = (await client.post("/v1/files", **sent)).json()
        ids = [response["id"], made["id"], response["output"][0]["id"], file["id"], *STRANGE]
        for _ in range(300):
            resource = draw.choice(RESOURCES)
            path = resource.path
            for name in ("response_id", "conversation_id", "item_id", "file_id"):
                path = path.replace(f"{{{name}}}", quote(draw.choice(ids) or "x", safe=""))
            query = {
                name: draw.choice(STRANGE + ids) for name in resource.query if draw.random() < 0.5
            }
            content: dict[str, Any] = {
                "items": draw.choices(ITEMS, k=draw.randint(0, 22)),
                "metadata": draw.choice([None, {}, {"a": "b"}, {"a": 1}, {"x" * 99: "y"}]),
            }
            answer = await client.request(
                resource.method, path, params=query,
                json=content if resource.method == "POST" and draw.random() < 0.9 else None,
            )  # fmt: skip
            assert answer.status_code < 500, (resource.method, path, query, content, answer.text)
            if answer.status_code >= 400:
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
                assert len(answer.content) < 4096
        assert (await client.post("/v1/responses", json=body)).status_code == 200


@pytest.mark.parametrize("query", ["", "?stream=true"])
@pytest.mark.parametrize("background", [False, True])
async def test_a_client_that_does_not_read_what_is_kept_is_cut_off(
    query: str, background: bool, no_kernel_timeout: None, cut_off: list[BoundedHttp]
) -> None:
    engine = ScriptedEngine(*["x" * 10_000] * 500)
    bounds = {"STORE_MAX_RESPONSE_BYTES": "99000000", "MAX_BODY_BYTES": "99000000"}
    async with serve(engine, WRITE_TIMEOUT="1", **bounds) as running:
        body = {"model": "default", "input": "hi", "background": background, "stream": background}
        made = await running.client.post("/v1/responses", json=body)
        response = made.json() if not background else _first(made.text)
        path = f"/v1/responses/{response['id']}"
        assert len((await running.client.get(path)).content) > 5_000_000
        await running.client.aclose()
        await eventually(lambda: not running.connections)
        with socket.socket() as client:  # which never reads
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", running.port))
            client.sendall(f"GET {path}{query} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            await eventually(lambda: bool(running.connections))
            await eventually(lambda: not running.connections)
        assert len(cut_off) == 1
        await eventually(lambda: running.gate._bytes == 0)


async def test_what_is_kept_is_counted_while_it_is_sent(no_kernel_timeout: None) -> None:
    engine = ScriptedEngine(*["x" * 10_000] * 500)
    bounds = {"STORE_MAX_RESPONSE_BYTES": "99000000", "MAX_REQUEST_BYTES": "12000000"}
    async with serve(engine, **bounds) as running:
        made = await running.client.post("/v1/responses", json={"model": "default", "input": "hi"})
        path = f"/v1/responses/{made.json()['id']}"
        clients = [socket.socket() for _ in range(2)]
        for no, client in enumerate(clients):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", running.port))
            client.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            await eventually(lambda no=no: running.gate._bytes > 5_000_000 * (no + 1))
        refused = await running.client.get(path)
        assert (refused.status_code, refused.json()["error"]["code"]) == (
            503,
            "server_is_overloaded",
        )
        for client in clients:
            client.close()
        await eventually(lambda: running.gate._bytes == 0)
        assert (await running.client.get(path)).status_code == 200


async def test_a_slow_client_gets_all_of_a_long_response() -> None:
    """What it reads renews its time."""
    engine = ScriptedEngine(*["x" * 100_000] * 100)
    async with serve(engine, WRITE_TIMEOUT="0.5", STORE_MAX_RESPONSE_BYTES="99000000") as running:
        made = await running.client.post("/v1/responses", json={"model": "default", "input": "hi"})
        path = f"/v1/responses/{made.json()['id']}"
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=65_536)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        read = 0
        while some := await reader.read(200_000):
            read += len(some)
            await asyncio.sleep(0.02)
        assert read > 10_000_000
        writer.close()


def _first(stream: str) -> Any:
    return orjson.loads(stream.partition("data: ")[2].partition("\n")[0])["response"]
