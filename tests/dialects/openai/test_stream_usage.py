"""STREAM_USAGE: streams end with their usage if the client has not said whether they shall."""

from __future__ import annotations

import pytest

from tests.support import sse
from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_a_stream_ends_with_usage_unless_the_client_wants_none(path: str) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "prompt": "hi", "stream": True}
    async with serve(ScriptedEngine("x"), STREAM_USAGE="true") as running:
        unasked = await running.client.post(path, json=body)
        options = {"stream_options": {"include_usage": False}}
        unwanted = await running.client.post(path, json=body | options)
    assert sse.frames(unasked.text)[-2]["usage"]["completion_tokens"] > 0
    assert sse.frames(unasked.text)[-2]["choices"] == []
    assert '"usage"' not in unwanted.text


async def test_without_the_switch_a_stream_has_no_usage() -> None:
    async with serve(ScriptedEngine("x")) as running:
        streamed = await running.chat(stream=True)
    assert '"usage"' not in streamed.text
