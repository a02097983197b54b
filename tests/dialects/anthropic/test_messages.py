"""`/v1/messages` on the wire."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from app.dialects.anthropic.answer import _tool_use
from app.dialects.anthropic.body import CountBody
from app.errors import EngineDied, Overloaded
from app.settings.bounds import Bounds
from tests.dialects.anthropic.replay import events_of, replayed
from tests.support.scripted import ScriptedEngine
from tests.support.serving import Running, serve, settings

PATH = "/v1/messages"
TOOL = {"name": "f", "input_schema": {"type": "object"}}
WEB = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}


async def ask(running: Running, content: Any = "hi", **fields: Any) -> Any:
    body = {
        "model": "default", "max_tokens": 64,
        "messages": [{"role": "user", "content": content}], **fields,
    }  # fmt: skip
    return await running.client.post(PATH, json=body)


async def test_a_message_is_the_same_streamed_and_whole() -> None:
    async with serve(ScriptedEngine("Hel", "lo\u2028", "!")) as running:
        whole = await ask(running)
        stream = await ask(running, stream=True)
    message = whole.raise_for_status().json()
    assert message["content"] == [{"type": "text", "text": "Hello\u2028!", "citations": None}]
    assert (message["model"], message["stop_reason"]) == ("default", "end_turn")
    assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
    again = replayed(events_of(stream.text))
    assert message.pop("id") != again.pop("id")
    assert again == message
    for answer in (whole, stream):
        assert answer.headers["request-id"] == "req_" + answer.headers["x-request-id"]


@pytest.mark.parametrize("headers", [
    {}, {"anthropic-version": "2023-06-01"}, {"anthropic-version": "2026-10-21"},
    {"anthropic-version": "x", "anthropic-beta": "a,b"},
])  # fmt: skip
async def test_what_claude_code_sends_is_taken(headers: dict[str, str]) -> None:
    body = {
        "model": "default", "max_tokens": 32000, "stream": True,
        "system": [{"type": "text", "text": "x-anthropic-billing-header: cc_version=1;"},
                   {"type": "text", "text": "be kind", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {"role": "system", "content": "agents"},
        ],
        "tools": [], "metadata": {"user_id": "{}"}, "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"}, "unknown": 1,
    }  # fmt: skip
    async with serve(ScriptedEngine("x")) as running:
        answer = await running.client.post(f"{PATH}?beta=true", json=body, headers=headers)
        (chat,) = running.engine.chats
        (_, sampling, *_), *_ = running.engine.calls
    assert replayed(events_of(answer.text))["stop_reason"] == "end_turn"
    assert [message.role for message in chat.messages] == ["system", "user"]
    assert (chat.effort, chat.template_kwargs["enable_thinking"]) == ("high", True)
    assert sampling.max_tokens < 32000  # what fits


@pytest.mark.parametrize(
    ("fields", "thinks"),
    [({}, False), ({"thinking": {"type": "disabled"}}, False),
     ({"thinking": {"type": "adaptive"}}, True), ({"thinking": {"type": "between_tools"}}, True),
     ({"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000}, True)],
)  # fmt: skip
async def test_a_model_thinks_where_that_was_asked_for(fields: Any, thinks: bool) -> None:
    async with serve(ScriptedEngine("x")) as running:
        (await ask(running, **fields)).raise_for_status()
        (chat,) = running.engine.chats
    assert chat.template_kwargs["enable_thinking"] is thinks


async def test_the_operator_may_leave_thinking_to_the_template() -> None:
    async with serve(ScriptedEngine("x"), MESSAGES_THINKING="template") as running:
        (await ask(running)).raise_for_status()
        (chat,) = running.engine.chats
    assert chat.template_kwargs == {}


async def test_a_last_message_of_the_assistant_is_gone_on_with() -> None:
    turns = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "The capital is \n"},
    ]
    async with serve(ScriptedEngine("Paris")) as running:
        answer = await ask(running, messages=turns)
        (chat,) = running.engine.chats
    assert answer.json()["content"][0]["text"] == "Paris"
    assert chat.continues
    assert chat.messages[-1].parts[0].text == "The capital is"


async def test_a_silent_stream_gets_pings() -> None:
    engine = ScriptedEngine("x", asyncio.Event())
    async with serve(engine, HEARTBEAT_INTERVAL="0.05") as running:
        body = {"model": "default", "max_tokens": 9, "stream": True,
                "messages": [{"role": "user", "content": "x"}]}  # fmt: skip
        text = ""
        async with running.client.stream("POST", PATH, json=body) as answer:
            async for piece in answer.aiter_text():
                text += piece
                if text.count("event: ping") >= 3:
                    break
    assert 'event: ping\ndata: {"type":"ping"}\n\n' in text


async def test_a_failure_in_a_stream_is_an_error_event_with_the_requests_id() -> None:
    async with serve(ScriptedEngine("Hel", EngineDied("It has ended."))) as running:
        answer = await ask(running, stream=True)
    *_, error = events_of(answer.text)
    assert error == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "It has ended."},
        "request_id": answer.headers["request-id"],
    }


async def test_a_failure_before_it_has_its_own_status() -> None:
    async with serve(ScriptedEngine(Overloaded("full"))) as running:
        answer = await ask(running, stream=True)
    assert answer.status_code == 529
    assert answer.headers["retry-after"] == "1"


PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "x"}}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf"}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": None}, "model: Field required"),
        ({"messages": None}, "messages: Field required"),
        ({"max_tokens": None}, "max_tokens: Field required"),
        ({"messages": []}, "messages: at least one message is required"),
        ({"messages": [{"role": "user"}]}, "messages.0.content: Field required"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]},
         "messages.0.content.0.text.text: Field required"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, PICTURE]}]},
         "messages.0.content.1.image: this model takes text only"),
        ({"messages": [{"role": "user", "content": [PDF]}]},
         "messages.0.content.0.document: this model takes documents of plain text only"),
        ({"messages": [{"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "x", "content": [PICTURE]}]}]},
         "messages.0.content.0.tool_result.content.0.image: this model takes text only"),
        ({"messages": [{"role": "user", "content": [{"type": "magic"}]}]},
         "messages.0.content.0: Input tag 'magic' found using 'type' does not match any of the "
         "expected tags"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": [
            {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}]}]},
         "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: "
         "toolu_1"),
        ({"stop_sequences": [""]}, "stop_sequences: each stop sequence must be non-empty"),
        ({"thinking": {"type": "enabled", "budget_tokens": 100}},
         "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024"),
        ({"thinking": {"type": "enabled"}}, "thinking.enabled.budget_tokens: Field required"),
        ({"stop_sequences": ["x" * 300]},
         "stop_sequences.0: must have at most 256 characters."),
        ({"system": "s", "messages": [{"role": "user", "content": [
            {"type": "tool_use", "id": "x", "name": "f", "input": {}}]}]},
         "messages.0.content.0.tool_use: it cannot be in a message of role 'user'"),
        ({"tools": [{"name": "x" * 129, "input_schema": {}}]},
         "tools.0.custom.name: String should match pattern '^[a-zA-Z0-9_-]{1,128}$'"),
        ({"messages": [{"role": "user", "content": [{"type": "document", "source": {
            "type": "content", "content": [PICTURE]}}]}]},
         "messages.0.content.0.document.source.content.0.image: this model takes text only"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}},
         "`max_tokens` must be greater than `thinking.budget_tokens`."),
        ({"tools": [TOOL, TOOL]}, "tools: Tool names must be unique."),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]},
         "tools.0: this tool is not supported here; declare it as a custom tool"),
        ({"tools": [WEB], "tool_choice": {"type": "any"}},
         "tool_choice: a tool must be called, but 'tools' has none that can be called here"),
        ({"mcp_servers": [{"url": "x"}]},
         "mcp_servers: Unsupported parameter: 'mcp_servers' is not supported by this server."),
    ],
)  # fmt: skip
async def test_what_is_not_taken_is_named_by_its_path(fields: dict[str, Any], message: str) -> None:
    async with serve(ScriptedEngine("x")) as running:
        answer = await ask(running, **fields)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["message"]) == ("invalid_request_error", message)


async def test_a_prompt_that_is_too_long_is_told_in_the_words_that_claude_code_knows() -> None:
    async with serve(ScriptedEngine("x")) as running:
        limit = running.engine.info.max_prompt_tokens
        answer = await ask(running, "x" * (limit + 1))
        words = await ask(running, "x" * 2_000_001)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == (
        f"prompt is too long: {limit + 1} tokens > {limit} maximum"
    )
    assert words.json()["error"]["message"].startswith("prompt is too long: 2000001 characters >")


async def test_tools_that_servers_run_are_not_shown() -> None:
    async with serve(ScriptedEngine("found")) as running:
        answer = await ask(running, tools=[WEB], tool_choice={"type": "auto"})
        (chat,) = running.engine.chats
    assert answer.json()["content"][0]["text"] == "found"
    assert chat.tool_use is None


async def test_a_tool_that_loads_late_is_shown_at_once_since_no_search_runs_here() -> None:
    search = {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}
    body = CountBody.model_validate(
        {
            "model": "m",
            "messages": [{"role": "user", "content": "x"}],
            "tools": [TOOL, TOOL | {"name": "late", "defer_loading": True}, search],
        }
    )
    use = _tool_use(body, Bounds.of(settings()), formatted=False)
    assert use is not None
    assert use.allowed == ("f", "late")


@pytest.mark.parametrize("content", ["  ", [{"type": "thinking", "thinking": "hm"}]])
async def test_a_last_message_of_the_assistant_without_text_begins_nothing(content: Any) -> None:
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": content}]
    async with serve(ScriptedEngine("y")) as running:
        (await ask(running, messages=turns)).raise_for_status()
        (chat,) = running.engine.chats
    assert not chat.continues
    assert [message.role for message in chat.messages] == ["user"]


async def test_the_count_of_tokens_is_that_of_the_same_request() -> None:
    async with serve(ScriptedEngine("x")) as running:
        messages = [{"role": "user", "content": "hello"}]
        fields = {"model": "default", "messages": messages, "system": "s", "tools": []}
        count = await running.client.post(f"{PATH}/count_tokens", json=fields)
        answer = await ask(running, **fields)
        limit = running.engine.info.max_prompt_tokens
        messages[0]["content"] = "x" * (limit + 100)
        long = await running.client.post(f"{PATH}/count_tokens", json=fields)
    usage = answer.json()["usage"]
    assert count.json() == {
        "input_tokens": usage["input_tokens"] + usage["cache_read_input_tokens"]
    }
    assert long.json()["input_tokens"] > limit


async def test_an_unknown_model_is_not_found() -> None:
    async with serve(ScriptedEngine("x")) as running:
        answer = await ask(running, model="claude-opus-4-8")
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "not_found_error"


async def test_models_are_listed_in_the_form_of_who_asks() -> None:
    async with serve(ScriptedEngine("x"), SERVED_MODEL_NAME="a,b") as running:
        version = {"anthropic-version": "2023-06-01"}
        first = await running.client.get("/v1/models?limit=1", headers=version)
        rest = await running.client.get("/v1/models?after_id=a", headers=version)
        one = await running.client.get("/v1/models/b", headers=version)
        wrong = await running.client.get("/v1/models?limit=x", headers=version)
        long = await running.client.get("/v1/models?limit=1" + "0" * 5000, headers=version)
        missing = await running.client.get("/v1/models/nope", headers=version)
        last = await running.client.get("/v1/models?before_id=b", headers=version)
        openai = await running.client.get("/v1/models")
    assert [entry["id"] for entry in first.json()["data"]] == ["a"]
    assert first.json()["has_more"] is True
    assert [entry["id"] for entry in rest.json()["data"]] == ["b"]
    assert one.json()["type"] == "model"
    for error, status in ((wrong, 400), (long, 400), (missing, 404)):
        assert error.status_code == status
        assert error.json()["type"] == "error"
        assert error.headers["request-id"] == error.json()["request_id"]
    assert [entry["id"] for entry in last.json()["data"]] == ["a"]
    assert openai.json()["object"] == "list"
