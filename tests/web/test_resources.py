"""Routes to what is kept: whatever is asked of them is answered, and never with a 5xx."""

from __future__ import annotations

import random
from typing import Any
from urllib.parse import quote

import pytest

from app.dialects.routes import RESOURCES
from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve

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
async def test_strange_requests_are_answered_and_harm_nothing(seed: int) -> None:
    draw = random.Random(seed)
    async with serve(ScriptedEngine("x")) as running:
        client = running.client
        body = {"model": "default", "input": [{"role": "user", "content": "hi"}] * 3}
        response = (await client.post("/v1/responses", json=body)).json()
        made = (await client.post("/v1/conversations", json={"items": ITEMS[:1]})).json()
        ids = [response["id"], made["id"], response["output"][0]["id"], *STRANGE]
        for _ in range(300):
            resource = draw.choice(RESOURCES)
            path = resource.path
            for name in ("response_id", "conversation_id", "item_id"):
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
