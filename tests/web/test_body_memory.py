"""A body is freed before the engine answers: the longest part of a request keeps no copy of it."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from contextlib import AsyncExitStack

import pytest

from tests.support.raw_client import connect, post
from tests.support.scripted import ScriptedEngine
from tests.support.serving import eventually, serve

REQUESTS, BODY_BYTES = 20, 1_000_000
MESSAGES = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", MESSAGES),
        ("/v1/completions", {"prompt": "hi"}),
        ("/generate", {"text": "hi"}),
        ("/v1/responses", {"input": "hi", "model": "default"}),
        ("/v1/messages", {**MESSAGES, "model": "default", "max_tokens": 9}),
    ],
)
async def test_a_request_in_the_engine_keeps_nothing_of_its_body(
    path: str, body: dict[str, object], stream: bool
) -> None:
    raw = json.dumps({**body, "stream": stream, "ignored": "x" * BODY_BYTES}).encode()
    engine = ScriptedEngine("never", 600.0)
    async with serve(engine) as running, AsyncExitStack() as clients:
        request = post(raw, path=path.encode())
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        try:
            for _ in range(REQUESTS):
                (await clients.enter_async_context(connect(running))).send(request)
            await eventually(lambda: engine.running == REQUESTS)
            await asyncio.sleep(0)
            grown = (tracemalloc.get_traced_memory()[0] - before) / REQUESTS
        finally:
            tracemalloc.stop()
    assert grown < 0.2 * BODY_BYTES
