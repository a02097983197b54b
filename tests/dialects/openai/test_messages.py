"""Turns of a conversation as clients send them back."""

from __future__ import annotations

import json

import pytest

from app.engine.sglang import importing
from app.types import Text
from tests.dialects.openai.tool_calls import (
    TOOLS,
)
from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve

importing.use_cpu()


async def test_thinking_of_earlier_turns_and_template_switches_reach_the_template() -> None:
    engine = ScriptedEngine("x")
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "reasoning": "because"},
        {"role": "user", "content": "c"},
    ]
    async with serve(engine) as running:
        answer = await running.client.post(
            "/v1/chat/completions",
            json={
                "messages": messages, "reasoning_effort": "low",
                "chat_template_kwargs": {"enable_thinking": False},
            },
        )  # fmt: skip
    assert answer.status_code == 200
    (chat,) = engine.chats
    assert chat.messages[1].reasoning == "because"
    assert (chat.effort, chat.template_kwargs) == ("low", {"enable_thinking": False})


@pytest.mark.full
async def test_turns_that_agents_send_back_are_accepted() -> None:
    engine = ScriptedEngine("x")
    call = {"id": "c", "type": "function", "function": {"name": "first", "arguments": "{cut o"}}
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [], "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "b"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "b"}]},
        {"role": "user", "content": "c"},
    ]  # fmt: skip
    body = {
        "messages": messages, "tools": TOOLS, "tool_choice": {"type": "function", "name": "first"},
        "verbosity": "low", "add_special_tokens": False, "store": False, "metadata": {"a": "b"},
    }  # fmt: skip
    async with serve(engine) as running:
        answer = await running.client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    (chat,) = engine.chats
    assert json.loads(chat.messages[1].calls[0].arguments) == {"input": "{cut o"}
    assert chat.messages[3].reasoning == "hm"
    assert chat.messages[3].parts == (Text("b"),)
