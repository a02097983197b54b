"""Features of an answer, on the real engine: calls, schemas, log-probabilities, echoes."""

from __future__ import annotations

import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import jsonschema
import pytest
from openai import BadRequestError, OpenAI
from pydantic import BaseModel

from tests.live.conftest import LiveServer
from tests.support import sse

pytestmark = pytest.mark.live
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "unit", "days"],
    "additionalProperties": False,
}
FIND = {
    "type": "object",
    "properties": {
        "words": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 3},
        "where": {
            "type": "object",
            "properties": {"kind": {"enum": ["web", "files"]}, "deep": {"type": "boolean"}},
            "required": ["kind", "deep"],
            "additionalProperties": False,
        },
    },
    "required": ["words", "where"],
    "additionalProperties": False,
}
SCHEMAS = {"weather": CITY, "find": FIND}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": schema, "strict": True}}
    for name, schema in SCHEMAS.items()
]
NAMED = {"type": "function", "function": {"name": "find"}}


def _chat(live: LiveServer, words: str = "Weather in Oslo?", **fields: Any) -> dict[str, Any]:
    """One choice, streamed or whole, in the same form."""
    body = {"messages": [{"role": "user", "content": words}], "max_tokens": 400, **fields}
    answer = live.http.post(CHAT, json=body).raise_for_status()
    if not fields.get("stream"):
        (choice,) = answer.json()["choices"]
        calls = [call["function"] for call in choice["message"].get("tool_calls", ())]
        return {
            "content": choice["message"]["content"] or "",
            "calls": [(call["name"], call["arguments"]) for call in calls],
            "finish": choice["finish_reason"],
        }
    content, calls, finish = "", [], None
    for frame in sse.frames(answer.text)[:-1]:
        (choice,) = frame["choices"]
        content += choice["delta"].get("content") or ""
        for piece in choice["delta"].get("tool_calls", ()):
            if "id" in piece:
                calls.append((piece["function"]["name"], ""))
            calls[-1] = (calls[-1][0], calls[-1][1] + piece["function"]["arguments"])
        finish = choice["finish_reason"] or finish
    return {"content": content, "calls": calls, "finish": finish}


SAMPLES = int(os.environ.get("SAMPLES", "8"))
"""Of random answers; with 30 each of the tests takes minutes."""


def _samples(ask: Any) -> list[Any]:
    with ThreadPoolExecutor(6) as pool:
        return list(pool.map(ask, range(SAMPLES)))


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_all_forced_calls_follow_their_schema(live: LiveServer, choice: Any) -> None:
    def ask(no: int) -> dict[str, Any]:
        return _chat(
            live, f"Question {no}", tools=TOOLS, tool_choice=choice, stream=bool(no % 2),
            parallel_tool_calls=no % 3 == 0, temperature=1.0, max_tokens=2000,
        )  # fmt: skip

    for no, answer in enumerate(_samples(ask)):
        assert answer["content"] == "", answer
        assert answer["finish"] == ("tool_calls" if choice == "required" else "stop"), answer
        assert answer["calls"]
        if no % 3 or choice is NAMED:
            assert len(answer["calls"]) == 1
        for name, arguments in answer["calls"]:
            assert choice == "required" or name == "find"
            jsonschema.validate(json.loads(arguments), SCHEMAS[name])


@pytest.mark.parametrize("strict", [True, False])
def test_all_answers_follow_their_schema(live: LiveServer, strict: bool) -> None:
    format = {
        "type": "json_schema", "json_schema": {"name": "found", "schema": FIND, "strict": strict},
    }  # fmt: skip

    def ask(no: int) -> dict[str, Any]:
        return _chat(live, f"Tell me {no}", response_format=format, stream=bool(no % 2))

    for answer in _samples(ask):
        assert answer["finish"] == "stop"
        jsonschema.validate(json.loads(answer["content"]), FIND)


def test_a_response_format_can_stand_beside_tools(live: LiveServer) -> None:
    format = {"type": "json_schema", "json_schema": {"name": "found", "schema": FIND}}
    for no in range(6):
        answer = _chat(
            live, f"Say {no}", tools=TOOLS, response_format=format, stream=bool(no % 2),
            temperature=1.0, parallel_tool_calls=False,
        )  # fmt: skip
        assert answer["finish"] != "length"
        if answer["calls"]:
            (name, arguments) = answer["calls"][0]
            jsonschema.validate(json.loads(arguments), SCHEMAS[name])
        else:
            jsonschema.validate(json.loads(answer["content"]), FIND)


def test_a_custom_tool_gets_its_text_unchanged(live: LiveServer) -> None:
    format = {
        "type": "grammar",
        "grammar": {"syntax": "regex", "definition": "[a-z]{3,6}=[0-9]{2}"},
    }
    tools = [{"type": "custom", "custom": {"name": "assign", "format": format}}]
    body = {
        "messages": [{"role": "user", "content": "x is 12"}], "tools": tools, "max_tokens": 100,
        "tool_choice": {"type": "custom", "custom": {"name": "assign"}},
    }  # fmt: skip
    answer = live.http.post(CHAT, json=body).raise_for_status().json()
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert call["type"] == "custom"
    assert len(call["custom"]["input"].split("=")[1]) == 2


def test_logprobs_are_finite_and_carry_the_tokens_bytes(live: LiveServer) -> None:
    body = {
        "messages": [{"role": "user", "content": "Repeat: 🌦️ Łódź"}], "max_tokens": 24,
        "temperature": 0, "logprobs": True, "top_logprobs": 3,
    }  # fmt: skip
    answer = live.http.post(CHAT, json=body).raise_for_status().json()
    (choice,) = answer["choices"]
    tokens = choice["logprobs"]["content"]
    assert len(tokens) == answer["usage"]["completion_tokens"]
    written = bytes(byte for token in tokens for byte in token["bytes"]).decode()
    assert written.removesuffix("<|im_end|>") == choice["message"]["content"]
    for token in tokens:
        assert len(token["top_logprobs"]) == 3
        assert all(math.isfinite(each["logprob"]) for each in token["top_logprobs"])
        ordered = sorted(token["top_logprobs"], key=lambda each: -each["logprob"])
        assert token["top_logprobs"] == ordered
        assert token["logprob"] == ordered[0]["logprob"]  # temperature 0
    streamed = live.http.post(CHAT, json=body | {"stream": True}).raise_for_status()
    expected = [
        token
        for frame in sse.frames(streamed.text)[:-1]
        for token in (frame["choices"][0]["logprobs"] or {"content": []})["content"]
    ]
    assert [token["token"] for token in expected] == [token["token"] for token in tokens]


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_a_text_can_be_scored_as_evaluation_harnesses_do(live: LiveServer, max_tokens: int) -> None:
    text = "The quick brown fox jumps over the lazy dog. Łódź 🌦️!"
    body = {
        "prompt": text, "max_tokens": max_tokens, "echo": True, "logprobs": 1, "temperature": 0,
    }  # fmt: skip
    answer = live.http.post(COMPLETION, json=body).raise_for_status().json()
    (choice,) = answer["choices"]
    scores = choice["logprobs"]
    expected = answer["usage"]["prompt_tokens"] + max_tokens
    assert {len(column) for column in scores.values()} == {expected}
    assert answer["usage"]["completion_tokens"] == max_tokens
    assert choice["text"].startswith(text)
    assert scores["token_logprobs"][0] is None
    assert scores["top_logprobs"][0] is None
    for token, own, top in list(
        zip(scores["tokens"], scores["token_logprobs"], scores["top_logprobs"], strict=True)
    )[1:]:
        assert top[token] == own  # the very same float
        assert own <= max(top.values())
    for token, offset in zip(scores["tokens"], scores["text_offset"], strict=True):
        if not token.startswith("bytes:") and token != "<|endoftext|>":
            assert choice["text"][offset:].startswith(token)
    ids = live.http.post("/tokenize", json={"prompt": text}).json()["tokens"]
    by_ids = live.http.post(COMPLETION, json=body | {"prompt": ids}).raise_for_status().json()
    assert by_ids["choices"][0]["logprobs"] == scores


def test_echo_of_several_prompts_and_choices_keeps_their_order(live: LiveServer) -> None:
    body = {
        "prompt": ["Red and", "Blue and", "Green and"], "n": 2, "max_tokens": 3, "echo": True,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    frames = sse.frames(live.http.post(COMPLETION, json=body).raise_for_status().text)
    texts = [sse.text_of(frames, index) for index in range(6)]
    starts = ["Red", "Red", "Blue", "Blue", "Green", "Green"]
    assert [text.split()[0] for text in texts] == starts
    assert frames[-2]["usage"]["completion_tokens"] == 18


def test_best_of_returns_the_likeliest_choice(live: LiveServer) -> None:
    body = {"prompt": "Once upon a", "n": 1, "max_tokens": 4, "temperature": 1.5, "logprobs": 0}
    answer = live.http.post(COMPLETION, json=body | {"best_of": 6}).raise_for_status().json()
    assert len(answer["choices"]) == 1
    assert answer["usage"]["completion_tokens"] == 24


def test_running_usage_is_on_every_frame(live: LiveServer) -> None:
    body = {
        "messages": [{"role": "user", "content": "Count"}], "max_tokens": 6, "stream": True,
        "ignore_eos": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }  # fmt: skip
    frames = sse.frames(live.http.post(CHAT, json=body).raise_for_status().text)[:-1]
    counts = [frame["usage"]["completion_tokens"] for frame in frames[1:]]
    assert counts == sorted(counts)
    assert 1 <= counts[0] <= counts[-1] == 6  # tokens that come together share a frame


def test_an_answer_can_continue_the_last_message(live: LiveServer) -> None:
    messages = [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "The capital of France is"},
    ]
    body = {"messages": messages, "max_tokens": 5, "temperature": 0}
    answer = live.http.post(CHAT, json=body | {"continue_final_message": True}).json()
    assert answer["choices"][0]["message"]["content"].startswith(" Paris")


def test_text_is_tokenized_and_detokenized(live: LiveServer) -> None:
    text = "Łódź 🌦️ <|im_start|>"
    tokenized = live.http.post("/tokenize", json={"prompt": text}).json()
    assert tokenized["count"] == len(tokenized["tokens"])
    assert tokenized["max_model_len"] == 8186
    back = live.http.post("/detokenize", json={"tokens": tokenized["tokens"]}).json()
    assert back["text"] == text
    counted = live.http.post("/v1/tokens", json={"input": text}).json()
    assert counted == {"prompt_tokens": tokenized["count"]}
    messages = [{"role": "user", "content": "hi"}]
    chat = live.http.post("/tokenize", json={"messages": messages}).json()
    used = live.http.post(CHAT, json={"messages": messages, "max_tokens": 1}).json()["usage"]
    assert chat["count"] == used["prompt_tokens"]


class Found(BaseModel):
    kind: Literal["city", "river"]
    good: bool


def test_the_openai_sdk_can_parse_answers_and_calls(live: LiveServer) -> None:
    client = OpenAI(base_url=f"{live.url}/v1", api_key="x", max_retries=0)
    ask: Any = {
        "model": "default", "max_tokens": 200,
        "messages": [{"role": "user", "content": "Rate Oslo"}],
    }  # fmt: skip
    parsed = client.chat.completions.parse(**ask, response_format=Found)
    assert isinstance(parsed.choices[0].message.parsed, Found)
    forced: Any = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
    with client.chat.completions.stream(**ask, **forced) as stream:
        kinds = {event.type for event in stream}
        (call,) = stream.get_final_completion().choices[0].message.tool_calls or ()
    assert {"tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"} <= kinds
    jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])
    again = client.chat.completions.create(
        model="default",
        max_tokens=20,
        tools=TOOLS,  # type: ignore[arg-type]
        messages=[
            *ask["messages"],
            {"role": "assistant", "tool_calls": [call.to_dict()]},  # type: ignore[typeddict-item, list-item]
            {"role": "tool", "tool_call_id": call.id, "content": "9 degrees"},
        ],
    )
    assert again.choices[0].finish_reason in ("stop", "length", "tool_calls")
    with pytest.raises(BadRequestError) as refused:
        client.embeddings.create(model="default", input="hi")
    assert refused.value.param == "model"


def test_prompts_of_another_salt_are_not_found_in_the_prefix_cache(live: LiveServer) -> None:
    text = "A spider is not an insect, and it has eight legs. " * 30

    def cached(**fields: Any) -> int:
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": 1, **fields}
        usage = live.http.post("/v1/chat/completions", json=body).raise_for_status().json()["usage"]
        return int(usage["prompt_tokens_details"]["cached_tokens"])

    assert cached(cache_salt="one") < 50
    assert cached(cache_salt="one") > 200
    assert cached(cache_salt="two") < 50


def test_responses_go_on_from_each_other_and_find_their_past_in_the_prefix_cache(
    live: LiveServer,
) -> None:
    first = live.http.post(
        "/v1/responses",
        json={"model": "default", "input": "My name is Ada. " * 80, "max_output_tokens": 16},
    ).raise_for_status().json()  # fmt: skip
    answer = live.http.post(
        "/v1/responses",
        json={
            "model": "default", "input": "What is my name?", "max_output_tokens": 8,
            "previous_response_id": first["id"],
        },
        headers={"x-explain-cache": "1"},
    ).raise_for_status()  # fmt: skip
    usage = answer.json()["usage"]
    assert usage["input_tokens_details"]["cached_tokens"] > 0.9 * first["usage"]["input_tokens"]
    assert "shared=" in answer.headers["x-prompt-cache"]
