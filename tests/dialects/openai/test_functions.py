"""`functions` and `function_call`, of clients from 2023."""

from __future__ import annotations

from typing import Any

import pytest

from app.engine.sglang import importing
from tests.dialects.openai.tool_calls import TOOLS, call_text, message_of
from tests.support import sse
from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve

importing.use_cpu()
FUNCTIONS = [tool["function"] for tool in TOOLS]


@pytest.mark.full
async def test_a_call_is_answered_as_function_call() -> None:
    engine = ScriptedEngine(call_text("first", '{"x": 1}') + call_text("second"))
    message, finish = await message_of(engine, functions=FUNCTIONS)
    assert message["function_call"] == {"name": "first", "arguments": '{"x": 1}'}
    assert "tool_calls" not in message
    assert finish == "function_call"
    use = engine.chats[0].tool_use
    assert use is not None
    assert ([tool.name for tool in use.tools], use.parallel) == (["first", "second"], False)


@pytest.mark.full
async def test_a_stream_has_the_same_call_in_pieces() -> None:
    async with serve(ScriptedEngine(call_text("first", '{"x": 1}'))) as running:
        streamed = await running.chat(functions=FUNCTIONS, stream=True)
    *frames, done = sse.frames(streamed.text)
    assert done == "[DONE]"
    deltas = [frame["choices"][0]["delta"].get("function_call", {}) for frame in frames]
    assert [each["name"] for each in deltas if "name" in each] == ["first"]
    assert "".join(each.get("arguments", "") for each in deltas) == '{"x": 1}'
    assert frames[-1]["choices"][0]["finish_reason"] == "function_call"
    assert "tool_calls" not in streamed.text


@pytest.mark.full
async def test_the_client_may_name_the_function() -> None:
    engine = ScriptedEngine('[{"name": "second", "parameters": {"a": 1}}]')
    choice = {"name": "second"}
    message, finish = await message_of(engine, functions=FUNCTIONS, function_call=choice)
    assert message["function_call"] == {"name": "second", "arguments": '{"a": 1}'}
    assert finish == "stop"


async def test_a_conversation_with_functions_reaches_the_model_as_calls_and_their_results() -> None:
    engine = ScriptedEngine("it is warm")
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None,
         "function_call": {"name": "first", "arguments": '{"city": "Oslo"}'}},
        {"role": "function", "name": "first", "content": "21"},
    ]  # fmt: skip
    async with serve(engine) as running:
        answer = await running.chat(messages=messages, functions=FUNCTIONS, function_call="none")
    assert answer.json()["choices"][0]["message"]["content"] == "it is warm"
    _, called, result = engine.chats[0].messages
    assert [(call.name, call.arguments) for call in called.calls] == [("first", '{"city": "Oslo"}')]
    assert (result.role, result.name) == ("tool", "first")
    assert engine.chats[0].tool_use is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": FUNCTIONS, "tools": TOOLS}, "functions"),
        ({"functions": FUNCTIONS, "tool_choice": "auto"}, "functions"),
        ({"functions": [FUNCTIONS[0], FUNCTIONS[0]]}, "functions[1]"),
        ({"functions": FUNCTIONS, "function_call": {"name": "third"}}, "function_call"),
        ({"functions": FUNCTIONS, "function_call": "required"}, "function_call"),
        ({"function_call": "auto"}, "function_call"),
        ({"functions": [{"name": "a b"}]}, "functions[0].name"),
        ({"functions": [{"name": "a", "parameters": {"type": "array"}}]},
         "functions[0].parameters"),
        ({"functions": "x"}, "functions"),
        ({"functions": FUNCTIONS, "parallel_tool_calls": True}, "parallel_tool_calls"),
        ({"messages": [{"role": "assistant", "function_call": {"name": "a", "arguments": "{}"},
                        "tool_calls": [{"id": "1", "type": "function",
                                        "function": {"name": "a", "arguments": "{}"}}]},
                       {"role": "user", "content": "x"}]},
         "messages[0].function_call"),
        ({"messages": [{"role": "user", "content": "x",
                        "function_call": {"name": "a", "arguments": ""}}]},
         "messages[0].function_call"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_named_in_the_clients_words(
    fields: dict[str, Any], param: str
) -> None:
    async with serve(ScriptedEngine("x")) as running:
        refused = await running.chat(**fields)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param


async def test_the_number_of_functions_is_bounded_as_that_of_tools() -> None:
    async with serve(ScriptedEngine("x"), MAX_TOOLS="1") as running:
        refused = await running.chat(functions=FUNCTIONS)
    assert refused.json()["error"]["code"] == "array_above_max_length"


async def test_plain_completions_and_responses_take_no_functions() -> None:
    body = {"prompt": "x", "input": "x", "functions": FUNCTIONS}
    async with serve(ScriptedEngine("x")) as running:
        for path in ("/v1/completions", "/v1/responses"):
            refused = await running.client.post(path, json=body)
            assert refused.json()["error"]["code"] == "unsupported_parameter"
