"""Requests that make no sense get a 4xx in the error's shape, and harm no other request."""

from __future__ import annotations

from typing import Any

import pytest

from tests.live.conftest import LiveServer

pytestmark = pytest.mark.live
CHAT, COMPLETION, EMBEDDING = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
NATIVE = "/generate"
HI = [{"role": "user", "content": "hi"}]

PART = "messages[0].content[0]"

PARAMETERS = "tools[0].function.parameters"
SCHEMA = "response_format.json_schema.schema"
LARK = {"type": "custom", "custom": {"name": "a", "format": {"type": "grammar", "grammar": {
    "syntax": "lark", "definition": "start: %json {}"}}}}  # fmt: skip


ALLOW_B = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [
    {"type": "function", "function": {"name": "b"}}]}}  # fmt: skip


def part(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [content]}]}


def tool(name: str, parameters: Any = None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def schema(json_schema: Any) -> dict[str, Any]:
    format = {"type": "json_schema", "json_schema": {"name": "x", "schema": json_schema}}
    return {"messages": HI, "response_format": format}


def deep(levels: int) -> dict[str, Any]:
    inner: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        inner = {"type": "object", "properties": {"x": inner}}
    return inner


DEEP = deep(20)

BODIES: list[tuple[str, bytes | dict[str, Any], int, str | None]] = [
    (CHAT, b"", 400, None),
    (CHAT, b"not json", 400, None),
    (CHAT, b'{"messages": NaN}', 400, None),
    (CHAT, b'{"messages":' + b"[" * 5000, 400, None),
    (CHAT, b"[]", 400, None),
    (CHAT, b'"text"', 400, None),
    (CHAT, {}, 400, "messages"),
    (CHAT, {"messages": []}, 400, "messages"),
    (CHAT, {"messages": "hi"}, 400, "messages"),
    (CHAT, {"messages": [{}]}, 400, "messages[0].role"),
    (CHAT, {"messages": [{"role": "wizard", "content": "hi"}]}, 400, "messages[0].role"),
    (CHAT, {"messages": [{"role": "user"}]}, 400, "messages[0].content"),
    (CHAT, {"messages": [{"role": "user", "content": 5}]}, 400, "messages[0].content"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 400, f"{PART}.text"),
    (CHAT, part({"type": "image_url"}), 400, f"{PART}.image_url"),
    (CHAT, {"messages": HI, "model": "gpt-4"}, 404, "model"),
    (CHAT, {"messages": HI, "model": 5}, 400, "model"),
    (CHAT, {"messages": HI, "n": 1_000_000}, 400, "n"),
    (CHAT, {"messages": HI, "n": 0}, 400, "n"),
    (CHAT, {"messages": HI, "n": True}, 400, "n"),
    (CHAT, {"messages": HI, "n": "2"}, 400, "n"),
    (CHAT, {"messages": HI, "n": 1.0}, 400, "n"),
    (CHAT, {"messages": HI, "temperature": 1e308}, 400, "temperature"),
    (CHAT, b'{"messages":[{"role":"user","content":"hi"}],"temperature":NaN}', 400, None),
    (CHAT, b'{"messages":[{"role":"user","content":"hi"}],"temperature":1e999}', 400, None),
    (CHAT, {"messages": HI, "temperature": -1}, 400, "temperature"),
    (CHAT, {"messages": HI, "temperature": "hot"}, 400, "temperature"),
    (CHAT, {"messages": HI, "top_p": 1.5}, 400, "top_p"),
    (CHAT, {"messages": HI, "top_k": 2147483648}, 400, "top_k"),
    (CHAT, {"messages": HI, "top_k": 2**70}, 400, "top_k"),
    (CHAT, {"messages": HI, "top_k": 49153}, 400, "top_k"),
    (CHAT, {"messages": HI, "min_p": 2}, 400, "min_p"),
    (CHAT, {"messages": HI, "repetition_penalty": 1e-46}, 400, "repetition_penalty"),
    (CHAT, {"messages": HI, "frequency_penalty": 3}, 400, "frequency_penalty"),
    (CHAT, {"messages": HI, "logit_bias": {"1": 1e39}}, 400, "logit_bias"),
    (CHAT, {"messages": HI, "logit_bias": {"49152": 1}}, 400, "logit_bias"),
    (CHAT, {"messages": HI, "logit_bias": {"-1": 1}}, 400, "logit_bias"),
    (CHAT, {"messages": HI, "logit_bias": {"word": 1}}, 400, "logit_bias.word"),
    (CHAT, {"messages": HI, "stop": ""}, 400, "stop"),
    (CHAT, {"messages": HI, "stop": ["a"] * 17}, 400, "stop"),
    (CHAT, {"messages": HI, "stop_token_ids": [999999999], "min_tokens": 1}, 400, "stop_token_ids"),
    (CHAT, {"messages": HI, "stop_token_ids": [-1]}, 400, "stop_token_ids[0]"),
    (CHAT, {"messages": HI, "max_tokens": 0}, 400, "max_tokens"),
    (CHAT, {"messages": HI, "max_tokens": 100000}, 400, "messages"),
    (CHAT, {"messages": HI, "min_tokens": 9, "max_tokens": 3}, 400, "min_tokens"),
    (CHAT, {"messages": HI, "seed": 2**63}, 400, "seed"),
    (CHAT, {"messages": HI, "stream": "yes"}, 400, "stream"),
    (CHAT, {"messages": HI, "stream_options": {"include_usage": True}}, 400, "stream_options"),
    (CHAT, {"messages": HI, "tools": []}, 400, "tools"),
    (CHAT, {"messages": HI, "tools": [{"type": "function"}]}, 400, "tools[0].function"),
    (CHAT, {"messages": HI, "tools": [tool("a b")]}, 400, "tools[0].function.name"),
    (CHAT, {"messages": HI, "tools": [tool("a"), tool("a")]}, 400, "tools[1]"),
    (CHAT, {"messages": HI, "tools": [tool(f"t{n}") for n in range(513)]}, 400, "tools"),
    (CHAT, {"messages": HI, "tools": [tool("a", DEEP)]}, 400, PARAMETERS),
    (CHAT, {"messages": HI, "tools": [tool("a", {"type": "array"})]}, 400, PARAMETERS),
    (CHAT, {"messages": HI, "tool_choice": "required", "tools": [tool("a", {"type": "object",
     "properties": {"x": {"pattern": "(a{1,99999}){1,99999}"}}})]}, 400, PARAMETERS),
    (CHAT, {"messages": HI, "tools": [LARK], "tool_choice": "required"}, 400,
     "tools[0].custom.format.grammar.definition"),
    (CHAT, {"messages": HI, "tools": [tool("a")], "tool_choice": "maybe"}, 400, "tool_choice"),
    (CHAT, {"messages": HI, "tools": [tool("a")], "tool_choice": {"type": "function", "function":
     {"name": "b"}}}, 400, "tool_choice"),
    (CHAT, {"messages": HI, "tools": [tool("a")], "tool_choice": ALLOW_B}, 400,
     "tool_choice.allowed_tools.tools[0]"),
    (CHAT, {"messages": HI, "tool_choice": "auto"}, 400, "tool_choice"),
    (CHAT, {"messages": HI, "functions": "a"}, 400, "functions"),
    (CHAT, {"messages": HI, "response_format": {"type": "xml"}}, 400, "response_format.type"),
    (CHAT, {"messages": HI, "response_format": {"type": "json_schema"}}, 400,
     "response_format.json_schema"),
    (CHAT, schema({"type": "nonsense"}), 400, SCHEMA),
    (CHAT, schema({"$ref": "#/$defs/none"}), 400, SCHEMA),
    (CHAT, schema(DEEP), 400, SCHEMA),
    (CHAT, schema({"enum": [f"value {n}" for n in range(501)]}), 400, SCHEMA),
    (CHAT, schema({"enum": ["x" * 70_000]}), 400, SCHEMA),
    (CHAT, schema({"type": "object", "properties": {f"p{n}": {} for n in range(1001)}}), 400,
     SCHEMA),
    (CHAT, schema({"type": "string", "pattern": "a" * 1025}), 400, SCHEMA),
    (CHAT, schema({"type": "string", "pattern": "a\0b"}), 400, SCHEMA),
    (CHAT, {"messages": HI, "response_format": {"type": "structural_tag", "format": {}}}, 400,
     "response_format"),
    (CHAT, {"messages": HI, "logprobs": 5}, 400, "logprobs"),
    (CHAT, {"messages": HI, "top_logprobs": 2}, 400, "top_logprobs"),
    (CHAT, {"messages": HI, "logprobs": True, "top_logprobs": 21}, 400, "top_logprobs"),
    (CHAT, {"messages": HI, "logprobs": True, "top_logprobs": -1}, 400, "top_logprobs"),
    (CHAT, {"messages": HI, "top_logprobs": 1_000_000}, 400, "top_logprobs"),
    (CHAT, {"messages": HI, "reasoning_effort": "ever"}, 400, "reasoning_effort"),
    (CHAT, {"messages": HI, "chat_template_kwargs": {"tokenize": False}}, 400,
     "chat_template_kwargs"),
    (CHAT, {"messages": HI, "chat_template_kwargs": {"enable_thinking": [1]}}, 400,
     "chat_template_kwargs.enable_thinking"),
    (CHAT, {"messages": HI, "chat_template": "{{ 1 }}"}, 400, "chat_template"),
    (CHAT, {"messages": HI, "continue_final_message": True}, 400, "continue_final_message"),
    (CHAT, {"messages": [{"role": "user", "content": "x", "tool_calls": [{"type": "function",
     "function": {"name": "a", "arguments": "{}"}}]}]}, 400, "messages[0].tool_calls"),
    (CHAT, part({"type": "input_audio", "input_audio": {}}), 400, PART),
    (CHAT, part({"type": "file", "file": {"file_id": "x"}}), 400, f"{PART}.file.file_id"),
    (CHAT, part({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}), 400,
     f"{PART}.image_url.url"),
    (CHAT, {"messages": HI, "rid": "a", "bootstrap_host": "x", "n": 0}, 400, "n"),
    (CHAT, {"messages": HI, "regex": "(a+)+$"}, 400, "regex"),
    (CHAT, {"messages": HI, "stop_regex": "(a+)+$"}, 400, "stop_regex"),
    (CHAT, {"messages": HI, "custom_logit_processor": "gASV"}, 400, "custom_logit_processor"),
    (CHAT, {"messages": HI, "lora_path": "/etc"}, 400, "lora_path"),
    (CHAT, {"messages": [{"role": "user", "content": "word " * 9000}]}, 400, "messages"),
    (COMPLETION, {}, 400, "prompt"),
    (COMPLETION, {"prompt": ""}, 400, "prompt"),
    (COMPLETION, {"prompt": []}, 400, "prompt"),
    (COMPLETION, {"prompt": [[]]}, 400, "prompt[0]"),
    (COMPLETION, {"prompt": None}, 400, "prompt"),
    (COMPLETION, {"prompt": 5}, 400, "prompt"),
    (COMPLETION, {"prompt": [-1]}, 400, "prompt"),
    (COMPLETION, {"prompt": [999999]}, 400, "prompt"),
    (COMPLETION, {"prompt": [49152]}, 400, "prompt"),
    (COMPLETION, {"prompt": [[1], [999999]]}, 400, "prompt[1]"),
    (COMPLETION, {"prompt": [True]}, 400, "prompt"),
    (COMPLETION, {"prompt": [1.0]}, 400, "prompt"),
    (COMPLETION, {"prompt": [2**70]}, 400, "prompt"),
    (COMPLETION, {"prompt": ["a", 1]}, 400, "prompt"),
    (COMPLETION, {"prompt": ["a"] * 65}, 400, "prompt"),
    (COMPLETION, {"prompt": "hi", "max_tokens": 0}, 400, "max_tokens"),
    (COMPLETION, {"prompt": "hi", "echo": 1}, 400, "echo"),
    (COMPLETION, {"prompt": "hi", "best_of": 5, "n": 6}, 400, "best_of"),
    (COMPLETION, {"prompt": "hi", "best_of": 17}, 400, "best_of"),
    (COMPLETION, {"prompt": "hi", "logprobs": 6}, 400, "logprobs"),
    (COMPLETION, {"prompt": "hi", "logprobs": -1}, 400, "logprobs"),
    (COMPLETION, {"prompt": "hi", "tools": [tool("a")]}, 400, "tools"),
    (COMPLETION, {"prompt": "hi", "ebnf": "root ::= root"}, 400, "ebnf"),
    (COMPLETION, {"prompt": "hi", "guided_choice": ["a"]}, 400, "guided_choice"),
    (COMPLETION, {"prompt": "a" * 70_000}, 400, "prompt"),
    (EMBEDDING, {"input": "hi"}, 400, "model"),
    (EMBEDDING, {"input": []}, 400, "input"),
    ("/tokenize", {"prompt": "a", "messages": HI}, 400, "prompt"),
    ("/tokenize", {"prompt": 5}, 400, "prompt"),
    ("/detokenize", {"tokens": [-1]}, 400, "tokens"),
    ("/detokenize", {"tokens": [49152]}, 400, "tokens"),
    ("/detokenize", {"tokens": [True]}, 400, "tokens"),
    ("/v1/tokens", {}, 400, "input"),
    (NATIVE, {}, 400, "text"),
    (NATIVE, {"input_ids": [-1]}, 400, "input_ids"),
    (NATIVE, {"input_ids": [[1], []]}, 400, "input_ids[1]"),
    (NATIVE, {"text": "hi", "lora_path": "/etc"}, 404, "lora_path"),
    (NATIVE, {"text": "hi", "lora_path": ["a", "b"]}, 400, "lora_path"),
    (CHAT, {"messages": HI, "model": "/etc"}, 404, "model"),
    (NATIVE, {"text": "hi", "image_data": "file:///etc/passwd"}, 400, "image_data"),
    (NATIVE, {"text": "hi", "sampling_params": {"top_k": 2147483648}}, 400,
     "sampling_params.top_k"),
    (NATIVE, {"text": "hi", "sampling_params": {"n": 1_000_000}}, 400, "sampling_params.n"),
    (NATIVE, {"text": "hi", "return_logprob": True, "top_logprobs_num": 1_000_000}, 400,
     "top_logprobs_num"),
    (NATIVE, {"text": "hi", "sampling_params": {"stop_regex": "(a+)+$"}}, 400,
     "sampling_params.stop_regex"),
    (COMPLETION, {"prompt": "hi", "suffix": "there"}, 400, "suffix"),
    (COMPLETION, {"prompt": "hi", "logprobs": 1_000_000}, 400, "logprobs"),
    (COMPLETION, {"prompt": [1] * 9000}, 400, "prompt"),
]  # fmt: skip


@pytest.fixture(scope="module")
def canary(live: LiveServer) -> Any:
    """An ordinary answer before the bad input, and the engine's processes that gave it."""
    return _ask(live), live.engine_pids()


def _ask(live: LiveServer) -> str:
    body = {"messages": [{"role": "user", "content": "What is 2+2?"}], "temperature": 0}
    answer = live.http.post(CHAT, json=body | {"max_tokens": 8}).raise_for_status().json()
    return str(answer["choices"][0]["message"]["content"])


@pytest.mark.parametrize(("path", "body", "status", "param"), BODIES, ids=range(len(BODIES)))
def test_bad_input_is_refused_with_the_parameters_name(
    live: LiveServer, canary: Any, path: str, body: Any, status: int, param: str | None
) -> None:
    for streamed in (False, True):
        if isinstance(body, dict):
            body = {**body, "stream": True} if streamed and "stream" not in body else body
            if "stream_options" in body:
                body.pop("stream", None)
            answer = live.http.post(path, json=body)
        else:
            answer = live.http.post(path, content=body)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/json"
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["param"] == param, error
        assert error["type"] == "invalid_request_error"
        assert isinstance(error["code"], str)
        assert len(answer.content) < 4096


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", CHAT, 405), ("PUT", COMPLETION, 405), ("POST", "/v1/models", 405),
     ("GET", "/v1/nothing", 404), ("POST", "/", 405), ("GET", "/v1/models/nothing", 404)],
)  # fmt: skip
def test_wrong_paths_and_methods_get_their_status(
    live: LiveServer, method: str, path: str, status: int
) -> None:
    answer = live.http.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_body_that_is_too_large_is_refused(live: LiveServer) -> None:
    answer = live.http.post(CHAT, content=b" " * (5 * 1024 * 1024))
    assert answer.status_code == 413


def test_a_compressed_body_is_refused(live: LiveServer) -> None:
    answer = live.http.post(CHAT, content=b"x", headers={"content-encoding": "gzip"})
    assert answer.status_code == 415


def test_after_bad_input_the_same_engine_gives_the_same_answer(
    live: LiveServer, canary: Any
) -> None:
    text, pids = canary
    assert _ask(live) == text
    assert live.engine_pids() == pids
