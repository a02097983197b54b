"""What users of this server and of its peers have reported, each as one request."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.grammars.test_in_json import PATCH
from tests.live.conftest import LiveServer
from tests.support import sse

pytestmark = pytest.mark.live
CHAT, COMPLETION, NATIVE = "/v1/chat/completions", "/v1/completions", "/generate"
HI = {"messages": [{"role": "user", "content": "Say hi"}], "temperature": 0}
K = {"type": "object", "properties": {"k": {"const": 1}}, "required": ["k"],
     "additionalProperties": False}  # fmt: skip
C = {"type": "object", "properties": {"c": {"const": 1}}, "required": ["c"],
     "additionalProperties": False}  # fmt: skip


def schema(schema: Any, **fields: Any) -> dict[str, Any]:
    format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return {**HI, "max_tokens": 30, "response_format": format, **fields}


def forced(parameters: Any, **fields: Any) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    return {**HI, "max_tokens": 60, "tools": tools, "tool_choice": "required",
            "parallel_tool_calls": False, **fields}  # fmt: skip


def native(schema: Any, **fields: Any) -> dict[str, Any]:
    return {"text": "Hi", "sampling_params": {"json_schema": json.dumps(schema), **fields}}


def content(value: Any) -> Callable[[httpx.Response], bool]:
    def follows(answer: httpx.Response) -> bool:
        choice = answer.json()["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        return choice["finish_reason"] == "stop" and bool(json.loads(text) == value)

    return follows


def arguments(value: Any) -> Callable[[httpx.Response], bool]:
    def follows(answer: httpx.Response) -> bool:
        (call,) = answer.json()["choices"][0]["message"]["tool_calls"]
        return bool(json.loads(call["function"]["arguments"]) == value)

    return follows


def streamed(value: Any) -> Callable[[httpx.Response], bool]:
    def follows(answer: httpx.Response) -> bool:
        # Each line by Unicode's rules is one of server-sent events'.
        assert all(line.startswith(("data: ", ":")) for line in answer.text.splitlines() if line)
        frames = sse.frames(answer.text)
        text = "".join(
            choice["delta"].get("content") or ""
            for frame in frames if frame != "[DONE]" for choice in frame["choices"]
        )  # fmt: skip
        return bool(json.loads(text) == value)

    return follows


def ok(answer: httpx.Response) -> bool:
    return answer.status_code == 200


ANSWERED: list[tuple[str, dict[str, Any], Callable[[httpx.Response], bool]]] = [
    (CHAT, schema({"const": "abc"}, min_tokens=10), content("abc")),
    (CHAT, schema({"const": "abc"}, min_tokens=10, stream=True), streamed("abc")),
    (CHAT, forced(C, min_tokens=40), arguments({"c": 1})),
    (NATIVE, native({"const": "abc"}, min_new_tokens=9, max_new_tokens=10), ok),
    (CHAT, schema({**K, "anyOf": [{"required": ["k"]}]}), content({"k": 1})),
    (CHAT, schema({**K, "oneOf": [{"required": ["k"]}]}), content({"k": 1})),
    (CHAT, schema({**K, "allOf": [{"required": ["k"]}]}), content({"k": 1})),
    (CHAT, forced({**K, "anyOf": [{"required": ["k"]}]}), arguments({"k": 1})),
    (CHAT, schema({"enum": [1, 2], "minimum": 2}), content(2)),
    (CHAT, schema({"$ref": "#foo", "$defs": {"a": {"$anchor": "foo", "const": 5}}}), content(5)),
    (CHAT, schema({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"const": 5}}}), content(5)),
    (CHAT, schema({"type": "array", "items": {"const": 1}, "minItems": 1, "maxItems": 1,
                   "uniqueItems": False}), content([1])),
    (CHAT, schema({"type": "string", "format": "password"}), ok),
    (CHAT, schema({"type": "string", "pattern": '^a"b$'}), content('a"b')),
    (CHAT, schema({"type": "string", "pattern": r"^\\$"}), content("\\")),
    (CHAT, forced({"type": "object", "properties": {"c": {"type": "string", "pattern": '^a"b$'}},
                   "required": ["c"], "additionalProperties": False}), arguments({"c": 'a"b'})),
    (CHAT, schema({"type": "object", "patternProperties": {'^"$': {"const": 1}},
                   "minProperties": 1, "maxProperties": 1, "additionalProperties": False}),
     content({'"': 1})),
    (CHAT, schema({"type": "integer", "minimum": -9223372036854776000,
                   "maximum": 9223372036854776000}), ok),
    (CHAT, forced({"type": "object", "properties": {"u": {"type": "integer", "minimum": 0,
                   "maximum": 18446744073709551615}}, "required": ["u"]}), ok),
    (CHAT, forced({"type": "object", "properties": {"u": {"type": "string", "format": "uri",
                   "minLength": 1}}}), ok),
    (CHAT, schema({"const": "a\u2028b\x85"}, stream=True), streamed("a\u2028b\x85")),
    (CHAT, {**HI, "max_tokens": 9, "response_format": {"type": "json_object",
            "schema": {"const": "abc"}}}, content("abc")),
    (CHAT, {**HI, "max_tokens": 9, "response_format": {"type": "json_object",
            "value": {"const": "abc"}}}, content("abc")),
    (COMPLETION, {"prompt": "x", "max_tokens": 9, "response_format": {"type": "json_schema",
     "json_schema": {"schema": {"const": "abc"}}}}, content("abc")),
    (CHAT, {**HI, "max_tokens": 1, "verbosity": "high"}, ok),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "right"), ANSWERED)
def test_it_is_answered_as_it_was_asked(
    live: LiveServer, path: str, body: Any, right: Callable[[httpx.Response], bool]
) -> None:
    answer = live.http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert right(answer), answer.text


LOOP = {"$ref": "#/$defs/n", "$defs": {"n": {"$ref": "#/$defs/n"}}}
SCHEMA = "response_format.json_schema.schema"
TOOL = "tools[0].function.parameters"
UNIQUE = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    (CHAT, schema(LOOP), SCHEMA, "requires itself"),
    (CHAT, schema(LOOP, stream=True), SCHEMA, "requires itself"),
    (CHAT, schema({"$ref": "#"}), SCHEMA, "requires itself"),
    (CHAT, forced({"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}},
                   "required": ["a"], "$defs": LOOP["$defs"]}), TOOL, "requires itself"),
    (NATIVE, native(LOOP), "sampling_params.json_schema", "requires itself"),
    (NATIVE, native(UNIQUE), "sampling_params.json_schema", "'uniqueItems'"),
    (CHAT, schema({"anyOf": []}), SCHEMA, "'anyOf'"),
    (CHAT, schema({"type": []}), SCHEMA, "'type'"),
    (CHAT, schema({"$ref": "#/$defs/A", "maximum": 3, "$defs": {"A": {"type": "integer",
                   "minimum": 5, "maximum": 5}}}), SCHEMA, "no value"),
    (CHAT, schema({"$ref": "http://127.0.0.1:9/x.json"}), SCHEMA, "'$ref'"),
    (CHAT, schema({"type": "string", "pattern": "^(?=b)a$"}), SCHEMA, "look-around"),
    (CHAT, schema({"enum": [18446744073709551615]}), SCHEMA, "'enum'"),
    (CHAT, schema({"type": "string", "maxLength": -1}), SCHEMA, "'maxLength'"),
    (CHAT, forced({"type": "object", "properties": {"a": UNIQUE}}, tools=[
        {"type": "function", "function": {"name": "a", "parameters": C}},
        {"type": "function", "function": {"name": "b", "strict": True,
         "parameters": {"type": "object", "properties": {"a": UNIQUE}}}}]),
     "tools[1].function.parameters", "'uniqueItems' at #/properties/a"),
    (CHAT, {**HI, "response_format": {"type": "json_schema", "json_schema": {"const": "abc"}}},
     SCHEMA, "Missing"),
    (CHAT, {**HI, "response_format": {"type": "json_schema", "json_schema": {
        "name": "x", "parameters": {"const": "abc"}}}}, SCHEMA, "Missing"),
    (CHAT, {**HI, "grammar": 'root ::= "zz"'}, "grammar", "ALLOW_GRAMMARS"),
    (CHAT, {**HI, "stop": ""}, "stop", "at least 1 characters"),
    (CHAT, {**HI, "stop": [""]}, "stop[0]", "at least 1 characters"),
    (CHAT, {**HI, "n": 200}, "n", "at most 8"),
    (CHAT, {**HI, "n": 9}, "n", "at most 8"),
    (CHAT, {**HI, "seed": 18446744073709551616}, "seed", "64 bits"),
    (NATIVE, {"input_ids": [504, 3575], "return_logprob": True, "logprob_start_len": 99,
              "sampling_params": {"max_new_tokens": 1}}, "logprob_start_len", "2 tokens"),
    (CHAT, forced(C, tool_choice={"type": "auto"}), "tool_choice.type", "'allowed_tools'"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "param", "said"), REFUSED)
def test_it_is_refused_by_name(
    live: LiveServer, path: str, body: Any, param: str, said: str
) -> None:
    answer = live.http.post(path, json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert said in error["message"]
    for insides in ("accept_token", "req.", "0x", "Traceback", ".py", "json-schema:///"):
        assert insides not in error["message"]


@pytest.mark.parametrize(
    ("temperature", "seed", "code"),
    [(3, 1, "decimal_above_max_value"), (2.1, 1, "decimal_above_max_value"),
     (1, 2**64, "integer_above_max_value"), (1, -(2**64), "integer_below_min_value")],
)  # fmt: skip
def test_the_code_goes_by_the_field(
    live: LiveServer, temperature: float, seed: int, code: str
) -> None:
    answer = live.http.post(CHAT, json={**HI, "temperature": temperature, "seed": seed})
    assert answer.json()["error"]["code"] == code


def test_the_whole_of_the_context_that_is_shown_can_be_used(
    start: Callable[..., LiveServer],
) -> None:
    live = start("--engine-arg", "context_length=256").ready()
    (card,) = live.get("/v1/models").json()["data"]
    most = card["max_model_len"]
    assert card["context_length"] == most
    body = {"prompt": [5] * (most - 12), "max_tokens": 12, "ignore_eos": True, "temperature": 0}
    answer = live.http.post(COMPLETION, json=body).json()
    assert answer["usage"]["completion_tokens"] == 12
    answer = live.http.post(COMPLETION, json={"prompt": [5] * (most - 1), "max_tokens": 1})
    assert answer.status_code == 200
    refused = live.http.post(COMPLETION, json={**body, "max_tokens": 13})
    assert f"maximum context length is {most} tokens" in refused.json()["error"]["message"]


def test_a_byte_order_mark_is_ignored(live: LiveServer) -> None:
    body = b"\xef\xbb\xbf" + json.dumps({**HI, "max_tokens": 1}).encode()
    assert live.http.post(CHAT, content=body).status_code == 200


def test_tokens_can_be_had_without_what_the_tokenizer_and_the_template_add(
    live: LiveServer,
) -> None:
    hello = {"prompt": "Hello", "add_special_tokens": False}
    plain = live.http.post("/v1/tokenize", json=hello).json()["tokens"]
    assert plain == live.http.post("/tokenize", json={"prompt": "Hello"}).json()["tokens"]
    text = live.http.post("/v1/detokenize", json={"tokens": plain}).json()
    assert text["text"] == "Hello"
    turns = {"messages": HI["messages"]}
    whole, without = (
        live.http.post("/tokenize", json={**turns, "add_generation_prompt": begins}).json()["count"]
        for begins in (True, False)
    )
    assert without < whole


def test_that_a_tool_is_strict_is_not_shown_to_the_model(live: LiveServer) -> None:
    counts = set()
    for strict in ({}, {"strict": None}, {"strict": False}, {"strict": True}):
        tools = [{"type": "function", "function": {"name": "f", "parameters": C, **strict}}]
        answer = live.http.post(CHAT, json={**HI, "max_tokens": 1, "tools": tools}).json()
        counts.add(answer["usage"]["prompt_tokens"])
    assert len(counts) == 1


def test_a_custom_tool_with_a_lark_grammar_is_called_by_its_rules(live: LiveServer) -> None:
    rules = 'start: "say " NAME LF\nNAME: /[a-z]{1,8}"/\n%import common.LF'
    for definition in (rules, PATCH):
        format = {"type": "grammar", "grammar": {"syntax": "lark", "definition": definition}}
        tool = {"type": "custom", "custom": {"name": "write", "format": format}}
        body = {**HI, "max_tokens": 200, "tools": [tool], "tool_choice": "required",
                "parallel_tool_calls": False}  # fmt: skip
        choice = live.http.post(CHAT, json=body).json()["choices"][0]
        (call,) = choice["message"]["tool_calls"]
        text = call["custom"]["input"]
        assert text.startswith("say " if definition is rules else "*** Begin Patch\n")
        if choice["finish_reason"] != "length":
            assert text.endswith(('"\n', "*** End Patch\n", "*** End Patch"))
