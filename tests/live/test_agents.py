"""`/v1/responses` and `/v1/messages` on the real engine, by their vendors' own clients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from anthropic import Anthropic
from openai import OpenAI

from tests.live.conftest import LiveServer

pytestmark = pytest.mark.live
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Paris", "Rome"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 60},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
ASK = "What is the capital of France?"


@pytest.fixture
def openai(live: LiveServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{live.url}/v1", api_key="x", timeout=120, max_retries=0) as client:
        yield client


@pytest.fixture
def anthropic(live: LiveServer) -> Iterator[Anthropic]:
    with Anthropic(base_url=live.url, api_key="x", timeout=120, max_retries=0) as client:
        yield client


def test_a_response_is_the_same_streamed_and_whole(openai: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "default", "input": ASK, "temperature": 0,
                             "max_output_tokens": 24}  # fmt: skip
    whole = openai.responses.create(**asked)
    with openai.responses.stream(**asked) as stream:
        events = [event.type for event in stream]
        streamed = stream.get_final_response()
    assert whole.output_text == streamed.output_text != ""
    assert whole.usage is not None
    assert streamed.usage is not None
    assert whole.usage.output_tokens == streamed.usage.output_tokens
    assert streamed.usage.input_tokens_details.cached_tokens > 0
    assert events[0] == "response.created"
    assert events[-1] in ("response.completed", "response.incomplete")
    counted = openai.responses.input_tokens.count(model="default", input=ASK)
    assert counted.input_tokens == whole.usage.input_tokens


def test_a_forced_call_of_a_namespaces_tool_is_answered_and_taken_up_again(openai: OpenAI) -> None:
    tool = {"type": "function", "name": "plan", "parameters": SCHEMA, "strict": True}
    tools: Any = [{"type": "namespace", "name": "trips", "description": "d", "tools": [tool]}]
    asked: dict[str, Any] = {"model": "default", "tools": tools, "max_output_tokens": 300}
    first = openai.responses.create(
        input=ASK, tool_choice={"type": "function", "name": "plan"}, **asked
    )
    (call,) = [item.model_dump() for item in first.output if item.type == "function_call"]
    assert (call["namespace"], call["name"]) == ("trips", "plan")
    jsonschema.validate(json.loads(call["arguments"]), SCHEMA)
    history: Any = [
        {"role": "user", "content": ASK},
        *(item.model_dump(exclude_none=True) for item in first.output),
        {"type": "function_call_output", "call_id": call["call_id"], "output": "done"},
    ]
    second = openai.responses.create(input=history, tool_choice="none", **asked)
    assert second.status in ("completed", "incomplete")
    assert second.output_text


def test_a_response_follows_its_format(openai: OpenAI) -> None:
    format: Any = {"type": "json_schema", "name": "trip", "schema": SCHEMA, "strict": True}
    answer = openai.responses.create(
        model="default", input=ASK, text={"format": format}, max_output_tokens=200
    )
    jsonschema.validate(json.loads(answer.output_text), SCHEMA)


def test_a_message_is_the_same_streamed_and_whole(anthropic: Anthropic) -> None:
    asked: dict[str, Any] = {"model": "default", "max_tokens": 24, "extra_body": {"temperature": 0},
                             "messages": [{"role": "user", "content": ASK}]}  # fmt: skip
    whole = anthropic.messages.create(**asked)
    with anthropic.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    (block,), (same,) = whole.content, streamed.content
    assert block.type == same.type == "text"
    assert block.text == same.text != ""
    assert whole.stop_reason == streamed.stop_reason
    assert whole.usage.output_tokens == streamed.usage.output_tokens
    counted = anthropic.messages.count_tokens(model="default", messages=asked["messages"])
    for usage in (whole.usage, streamed.usage):
        assert usage.input_tokens + (usage.cache_read_input_tokens or 0) == counted.input_tokens
    assert (streamed.usage.cache_read_input_tokens or 0) > 0


def test_a_forced_tool_use_follows_its_schema_and_is_taken_up_again(anthropic: Anthropic) -> None:
    tools: Any = [{"name": "plan", "input_schema": SCHEMA, "strict": True}]
    turns: Any = [{"role": "user", "content": ASK}]
    asked: dict[str, Any] = {"model": "default", "max_tokens": 300, "tools": tools}
    first = anthropic.messages.create(
        messages=turns, tool_choice={"type": "tool", "name": "plan"}, **asked
    )
    (use,) = [block for block in first.content if block.type == "tool_use"]
    assert first.stop_reason == "tool_use"
    jsonschema.validate(use.input, SCHEMA)
    turns += [
        {"role": "assistant", "content": [block.model_dump() for block in first.content]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": use.id, "content": "done"}]},
    ]  # fmt: skip
    second = anthropic.messages.create(messages=turns, **asked | {"max_tokens": 8})
    assert second.content
    assert second.usage.cache_read_input_tokens


def test_more_tokens_than_fit_are_a_ceiling_and_too_long_a_prompt_is_told(
    anthropic: Anthropic, live: LiveServer
) -> None:
    turns: Any = [{"role": "user", "content": ASK}]
    stop = anthropic.messages.create(
        model="default", max_tokens=64_000, messages=turns, stop_sequences=["Paris"],
        stream=False, timeout=100, extra_body={"temperature": 0},
    )  # fmt: skip
    assert (stop.stop_reason, stop.stop_sequence) == ("stop_sequence", "Paris")
    body = {"model": "default", "max_tokens": 4,
            "messages": [{"role": "user", "content": "word " * 10_000}]}  # fmt: skip
    refused = live.http.post("/v1/messages", json=body)
    assert refused.status_code == 400
    assert refused.json()["error"]["message"].startswith("prompt is too long: ")
