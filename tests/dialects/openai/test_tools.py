"""Tools in chat completions: definitions, choices, and the calls of answers."""

from __future__ import annotations

import json

import pytest

from app.engine.sglang import importing
from tests.dialects.openai.tool_calls import (
    NAMED,
    TOOLS,
    call_text,
    message_of,
    tool_names,
)
from tests.support import sse
from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve

importing.use_cpu()


@pytest.mark.full
async def test_text_before_a_call_is_content_and_blanks_around_it_are_not() -> None:
    text = "I will look.\n\n" + call_text("first") + call_text("second", '{"x": [1]}') + "\n"
    message, finish = await message_of(ScriptedEngine(text), tools=TOOLS)
    assert message["content"] == "I will look.\n\n"
    assert (tool_names(message), finish) == (["first", "second"], "tool_calls")
    message, _ = await message_of(ScriptedEngine("\n\n", call_text("first")), tools=TOOLS)
    assert message["content"] is None


@pytest.mark.full
async def test_without_parallel_calls_only_the_first_call_is_returned() -> None:
    text = call_text("first") + call_text("second")
    fields = {"tools": TOOLS, "parallel_tool_calls": False}
    message, finish = await message_of(ScriptedEngine(text), **fields)
    assert (tool_names(message), finish) == (["first"], "tool_calls")
    array = '[{"name": "first", "parameters": {}}, {"name": "second", "parameters": {}}]'
    message, _ = await message_of(ScriptedEngine(array), tool_choice="required", **fields)
    assert tool_names(message) == ["first"]


@pytest.mark.full
async def test_a_named_call_ends_with_stop() -> None:
    array = '[{"name": "second", "parameters": {"a": 1}}]'
    message, finish = await message_of(ScriptedEngine(array), tools=TOOLS, tool_choice=NAMED)
    assert (tool_names(message), finish) == (["second"], "stop")


@pytest.mark.full
async def test_calls_that_are_not_allowed_are_dropped() -> None:
    allowed = {
        "type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]},
    }  # fmt: skip
    text = call_text("first") + call_text("second") + call_text("third")
    message, _ = await message_of(ScriptedEngine(text), tools=TOOLS, tool_choice=allowed)
    assert tool_names(message) == ["second"]


@pytest.mark.full
async def test_a_call_that_is_cut_off_ends_with_length() -> None:
    engine = ScriptedEngine('<tool_call>\n{"name": "first", "arguments": {"a', finish="length")
    message, finish = await message_of(engine, tools=TOOLS)
    assert (tool_names(message), finish) == (["first"], "length")


@pytest.mark.full
async def test_markers_without_a_call_stay_text() -> None:
    for text in ("Write <tool_call> first.", "a < b <tool", "<tool_call>\nnot json", "<"):
        message, finish = await message_of(ScriptedEngine(*text), tools=TOOLS)
        assert (message["content"], finish) == (text, "stop")
        assert "tool_calls" not in message


async def test_with_tool_choice_none_a_call_stays_text() -> None:
    text = call_text("first")
    message, finish = await message_of(ScriptedEngine(text), tools=TOOLS, tool_choice="none")
    assert (message["content"], finish) == (text, "stop")


@pytest.mark.full
async def test_a_call_of_an_unknown_tool_becomes_text() -> None:
    message, finish = await message_of(ScriptedEngine(call_text("third", '{"a": 1}')), tools=TOOLS)
    assert json.loads(message["content"]) == {"name": "third", "arguments": {"a": 1}}
    assert finish == "stop"


@pytest.mark.full
async def test_a_custom_tools_input_is_passed_on_unchanged() -> None:
    tools = [{"type": "custom", "custom": {"name": "patch", "description": "d"}}]
    written = 'a "quoted"\nline'
    engine = ScriptedEngine(*call_text("patch", json.dumps({"input": written})))
    async with serve(engine) as running:
        whole = (await running.chat(tools=tools)).json()["choices"][0]
        frames = sse.frames((await running.chat(tools=tools, stream=True)).text)
        past = {"id": "call_1", "type": "custom", "custom": {"name": "patch", "input": written}}
        messages = [
            {"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [past]},
            {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "ok"}]},
        ]  # fmt: skip
        answer = await running.client.post("/v1/chat/completions", json={"messages": messages})
    (call,) = whole["message"]["tool_calls"]
    assert (call["type"], call["custom"]) == ("custom", {"name": "patch", "input": written})
    deltas = [frame["choices"][0]["delta"] for frame in frames[:-1]]
    pieces = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert pieces[0]["custom"] == {"name": "patch", "input": ""}
    assert "".join(piece["custom"]["input"] for piece in pieces) == written
    assert answer.status_code == 200
    lowered = engine.chats[-1].messages[1].calls[0]
    assert json.loads(lowered.arguments) == {"input": written}


@pytest.mark.full
async def test_each_choice_has_its_own_calls() -> None:
    engine = ScriptedEngine(script=lambda no: [call_text(["first", "second"][no])])
    async with serve(engine) as running:
        frames = sse.frames((await running.chat(tools=TOOLS, n=2, stream=True)).text)
    names: dict[int, list[str]] = {0: [], 1: []}
    for frame in frames[:-1]:
        (choice,) = frame["choices"]
        for piece in choice["delta"].get("tool_calls", ()):
            assert piece["index"] == 0
            if "id" in piece:
                names[choice["index"]].append(piece["function"]["name"])
    assert names == {0: ["first"], 1: ["second"]}


@pytest.mark.full
async def test_ids_names_and_roles_are_sent_once() -> None:
    """The SDKs concatenate strings: a name that is sent twice arrives twice."""
    async with serve(ScriptedEngine(*call_text("first", '{"a": "b"}'))) as running:
        frames = sse.frames((await running.chat(tools=TOOLS, stream=True)).text)[:-1]
    deltas = [frame["choices"][0]["delta"] for frame in frames]
    assert [("role" in delta) for delta in deltas] == [True] + [False] * (len(deltas) - 1)
    pieces = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert pieces[0]["id"].startswith("call_")
    assert pieces[0] == {
        "index": 0, "id": pieces[0]["id"], "type": "function",
        "function": {"name": "first", "arguments": ""},
    }  # fmt: skip
    assert all(set(piece) == {"index", "function"} for piece in pieces[1:])
    assert all(set(piece["function"]) == {"arguments"} for piece in pieces[1:])


@pytest.mark.full
async def test_large_tools_are_shown_but_not_compiled_and_count_as_prompt() -> None:
    wide = {"type": "object", "properties": {f"p{no}": {"type": "string"} for no in range(500)}}
    tools = [{"type": "function", "function": {"name": "first", "parameters": wide}}]
    engine = ScriptedEngine("x", context_length=100_000, max_prompt_tokens=99_000)
    async with serve(engine, MAX_PROMPT_CHARS="30000") as running:
        assert (await running.chat(tools=tools)).status_code == 200
        forced = await running.chat(tools=tools, tool_choice="required")
        assert forced.json()["error"]["param"] == "tools[0].function.parameters"
        large = [{"type": "function", "function": {"name": "first", "description": "x" * 30_000}}]
        answer = await running.chat(tools=large)
    assert answer.json()["error"]["code"] == "context_length_exceeded"
