"""Chat completions on the wire: frames, whole answers, thinking, scores and names."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from app.engine.sglang import importing
from tests.dialects.openai.tool_calls import (
    message_of,
)
from tests.support import sse
from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve

importing.use_cpu()


async def test_a_whole_answer_has_every_key_that_openai_sends() -> None:
    async with serve(ScriptedEngine("Hel", "lo")) as running:
        answer = (await running.chat("four")).json()
    assert set(answer) >= {"id", "object", "created", "model", "choices", "usage"}
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Hello",
                "refusal": None,
                "annotations": [],
            },
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"] == {
        "prompt_tokens": 4,
        "completion_tokens": 2,
        "total_tokens": 6,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


async def test_a_stream_is_role_text_finish_done() -> None:
    async with serve(ScriptedEngine("Hel", "lo")) as running:
        answer = await running.chat(stream=True)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    *chunks, done = sse.frames(answer.text)
    assert done == "[DONE]"
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "Hel"},
        {"content": "lo"},
        {},
    ]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None, None, None, "stop"]
    assert len({(c["id"], c["created"], c["model"], c["object"]) for c in chunks}) == 1
    assert not any("usage" in chunk for chunk in chunks)


async def test_usage_comes_only_if_requested_and_last() -> None:
    async with serve(ScriptedEngine("a")) as running:
        answer = await running.chat(stream=True, stream_options={"include_usage": True})
    *chunks, usage, done = sse.frames(answer.text)
    assert done == "[DONE]"
    assert all(chunk["usage"] is None for chunk in chunks)
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 3


async def test_each_choice_finishes_as_soon_as_it_ends() -> None:
    go_on = asyncio.Event()
    engine = ScriptedEngine(script=lambda choice: ["short"] if choice else ["x", go_on, "long"])
    async with serve(engine) as running, running.client.stream(
        "POST", "/v1/chat/completions",
        json={"messages": [{"role": "user", "content": "hi"}], "n": 2, "stream": True},
    ) as answer:  # fmt: skip
        lines = answer.aiter_lines()
        seen = []
        engine.calls.clear()
        async for line in lines:
            if line.startswith("data: {"):
                choice = json.loads(line[6:])["choices"][0]
                seen.append((choice["index"], choice["finish_reason"]))
                if len(seen) == 4:
                    # Choice 0 is still silent; choice 1 must have been sent all the same.
                    go_on.set()
    assert seen[:2] == [(0, None), (1, None)]
    assert [index for index, reason in seen if reason] in ([1, 0], [0, 1])
    assert [pair for pair in seen if pair[1]] == [(1, "stop"), (0, "stop")]


async def test_scores_come_with_the_text_that_they_belong_to() -> None:
    async with serve(ScriptedEngine("one ", "two ", "three")) as running:
        fields = {"logprobs": True, "top_logprobs": 1, "stream": True}
        frames = sse.frames((await running.chat(**fields)).text)[1:-1]
    for frame in frames[:-1]:
        (choice,) = frame["choices"]
        tokens = choice["logprobs"]["content"]
        assert "".join(token["token"] for token in tokens) == choice["delta"]["content"]


@pytest.mark.full
async def test_thinking_has_its_alias_only_if_configured() -> None:
    def engine() -> ScriptedEngine:
        return ScriptedEngine(
            "Hm.", "</think>", "Yes.", reasoning_parser="qwen3",
            thinking=True,
        )  # fmt: skip

    async with serve(engine(), REASONING_ALIAS="true") as running:
        message = (await running.chat()).json()["choices"][0]["message"]
        frames = sse.frames((await running.chat(stream=True)).text)[:-1]
    assert message["reasoning"] == message["reasoning_content"] == "Hm."
    deltas = [frame["choices"][0]["delta"] for frame in frames]
    assert {"reasoning_content": "Hm.", "reasoning": "Hm."} in deltas
    message, _ = await message_of(engine())
    assert "reasoning" not in message


@pytest.mark.parametrize(
    ("fields", "kwargs", "effort"),
    [
        ({"enable_thinking": False}, {"enable_thinking": False, "thinking": False}, None),
        ({"thinking": {"type": "enabled"}}, {"enable_thinking": True, "thinking": True}, None),
        ({"reasoning": {"effort": "none"}}, {}, "none"),
        ({"reasoning": {"enabled": False}}, {"enable_thinking": False, "thinking": False}, None),
    ],
)
async def test_thinking_is_switched_by_the_field_of_each_vendor(
    fields: dict[str, Any], kwargs: dict[str, Any], effort: str | None
) -> None:
    engine = ScriptedEngine("x")
    async with serve(engine) as running:
        assert (await running.chat(**fields)).status_code == 200
    assert (engine.chats[0].template_kwargs, engine.chats[0].effort) == (kwargs, effort)


async def test_null_means_absent() -> None:
    fields = [
        "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "min_p", "n",
        "frequency_penalty", "presence_penalty", "repetition_penalty", "stop", "seed", "user",
        "logit_bias", "stream", "stream_options", "response_format", "tools", "tool_choice",
        "logprobs", "top_logprobs", "reasoning_effort", "functions", "audio",
    ]  # fmt: skip
    async with serve(ScriptedEngine("x")) as running:
        answer = await running.chat(**dict.fromkeys(fields))
    assert answer.status_code == 200, answer.text


async def test_fields_without_effect_are_ignored() -> None:
    harmless = {
        "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "user": "me",
        "safety_identifier": "x", "prompt_cache_key": "y", "logprobs": False, "an_unknown_one": 1,
        "response_format": {"type": "text"}, "modalities": ["text"],
    }  # fmt: skip
    async with serve(ScriptedEngine("x")) as running:
        assert (await running.chat(**harmless)).status_code == 200


async def test_max_tokens_is_bounded_by_the_operators_limit() -> None:
    engine = ScriptedEngine("x")
    async with serve(engine, MAX_TOTAL_TOKENS="20") as running:
        assert (await running.chat("x" * 10)).status_code == 200
        assert engine.calls[-1][1].max_tokens == 10
        refused = await running.chat("x" * 10, max_tokens=11)
        too_long = await running.chat("x" * 20)
    for answer in (refused, too_long):
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["code"] == "context_length_exceeded"
        assert error["message"].startswith("This model's maximum context length is 20 tokens.")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_a_users_name_is_bounded(path: str) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "prompt": "hi"}
    async with serve(ScriptedEngine("hi")) as running:
        taken = await running.client.post(path, json={**body, "user": "x" * 512})
        refused = await running.client.post(path, json={**body, "user": "x" * 513})
    assert taken.status_code == 200
    assert refused.json()["error"]["param"] == "user"
