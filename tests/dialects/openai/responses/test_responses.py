"""`/v1/responses` on the wire."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from openai import AsyncOpenAI

from app.dialects.openai.responses import presenter
from app.errors import EngineDied, InvalidRequest
from tests.dialects.openai.responses.replay import Replay, events_of
from tests.support.scripted import ScriptedEngine
from tests.support.serving import Running, serve

PATH = "/v1/responses"


async def ask(running: Running, input: Any = "hi", **fields: Any) -> Any:
    return await running.client.post(PATH, json={"model": "default", "input": input, **fields})


async def test_a_whole_answer_has_every_key_and_repeats_its_request() -> None:
    async with serve(ScriptedEngine("Hel", "lo")) as running:
        answer = await ask(
            running, "four", instructions="be brief", metadata={"a": "b"}, temperature=0.5,
            max_output_tokens=9, prompt_cache_key="k", service_tier="priority",
            text={"verbosity": "high"}, reasoning={"effort": "low", "summary": "auto"},
            tools=[{"type": "web_search"}], include=[], client_metadata={"x": "y"},
        )  # fmt: skip
    response = answer.raise_for_status().json()
    assert response["id"].startswith("resp_")
    assert response["output"][0].pop("id").startswith("msg_")
    for changing in ("id", "created_at", "completed_at"):
        assert response.pop(changing)
    assert response == {
        "object": "response",
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "output": [
            {
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [
                    {"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}
                ],
            }
        ],
        "usage": {
            "input_tokens": 12,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 2,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 14,
        },
        "model": response["model"],
        "background": False,
        "conversation": None,
        "instructions": "be brief",
        "max_output_tokens": 9,
        "max_tool_calls": None,
        "metadata": {"a": "b"},
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": "k",
        "prompt_cache_retention": None,
        "reasoning": {"effort": "low", "summary": "auto"},
        "safety_identifier": None,
        "service_tier": "default",
        "store": True,
        "temperature": 0.5,
        "top_p": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "top_logprobs": 0,
        "text": {"format": {"type": "text"}, "verbosity": "high"},
        "tool_choice": "auto",
        "tools": [{"type": "web_search"}],
        "truncation": "disabled",
        "user": None,
    }


async def test_the_openai_client_gets_the_same_streamed_and_whole() -> None:
    async with serve(ScriptedEngine("Hel", "lo\u2028", "!")) as running:
        url = f"http://127.0.0.1:{running.port}/v1"
        async with AsyncOpenAI(base_url=url, api_key="x") as client:
            whole = await client.responses.create(model="default", input="hi")
            async with client.responses.stream(model="default", input="hi") as stream:
                async for _ in stream:
                    pass
                streamed = await stream.get_final_response()
        raw = await ask(running, stream=True)
    assert whole.output_text == streamed.output_text == "Hello\u2028!"
    assert whole.usage == streamed.usage
    assert raw.headers["content-type"] == "text/event-stream; charset=utf-8"
    replay = Replay(events_of(raw.text))
    assert replay.response is not None
    assert "[DONE]" not in raw.text


async def test_a_stream_that_waits_begins_with_created_and_goes_on_with_in_progress(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(presenter, "_BEATS_S", 0.0)
    engine = ScriptedEngine("x", asyncio.Event())
    async with serve(engine, HEARTBEAT_INTERVAL="0.05") as running:
        body = {"model": "default", "input": "hi", "stream": True}
        text = ""
        async with running.client.stream("POST", PATH, json=body) as answer:
            async for piece in answer.aiter_text():
                text += piece
                if text.count("response.in_progress") >= 6:
                    break
    events = events_of(text[: text.rindex("\n\n") + 2])
    kinds = [event["type"] for event in events]
    assert kinds[0] == "response.created"
    assert kinds.count("response.created") == 1
    assert kinds[-1] == "response.in_progress"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


async def test_a_failure_in_a_stream_is_the_last_event() -> None:
    async with serve(ScriptedEngine("Hel", EngineDied("The engine has ended."))) as running:
        answer = await ask(running, stream=True)
    replay = Replay(events_of(answer.text))
    assert replay.response is not None
    assert replay.response["error"] == {
        "code": "server_error",
        "message": "The engine has ended.",
        "type": "service_unavailable_error",
        "param": None,
    }


async def test_a_failure_after_a_heartbeat_and_before_the_first_token_is_created_and_failed() -> (
    None
):
    may_fail = asyncio.Event()
    engine = ScriptedEngine(may_fail, EngineDied("The engine has ended."))
    async with serve(engine, HEARTBEAT_INTERVAL="0.05") as running:
        body = {"model": "default", "input": "hi", "stream": True}
        text = ""
        async with running.client.stream("POST", PATH, json=body) as answer:
            async for piece in answer.aiter_text():
                text += piece
                may_fail.set()
    kinds = {event["type"] for event in events_of(text)}
    assert kinds == {"response.created", "response.in_progress", "response.failed"}
    Replay(events_of(text))


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"model": None}, "model", "missing_required_parameter"),
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": []}, "input", "array_below_min_length"),
        ({"input": [{"type": "web_search_call"}]}, "input", "invalid_value"),
        ({"input": [{"type": "nonsense"}]}, "input[0].type", "invalid_value"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
         "input[0].content[0].image_url", "unsupported_parameter"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]},
         "input[0].content[0].file_id", "unsupported_parameter"),
        ({"input": [{"role": "user", "content": [{"type": "input_audio", "file_id": "x"}]}]},
         "input[0].content[0]", "unsupported_parameter"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "x"}]}]},
         "input[0].content[0].file_id", "unsupported_parameter"),
        ({"prompt": {"id": "x"}}, "prompt", "unsupported_parameter"),
        ({"moderation": {"x": 1}}, "moderation", "unsupported_parameter"),
        ({"messages": []}, "messages", "unsupported_parameter"),
        ({"n": 2}, "n", "unsupported_parameter"),
        ({"use_beam_search": True}, "use_beam_search", "unsupported_parameter"),
        ({"length_penalty": 2}, "length_penalty", "unsupported_parameter"),
        ({"early_stopping": True}, "early_stopping", "unsupported_parameter"),
        ({"response_format": {"type": "text"}}, "response_format", "unsupported_parameter"),
        ({"tools": [{"type": "file_search"}]}, "tools[0].type", "unsupported_parameter"),
        ({"tools": [{"type": "magic"}]}, "tools[0].type", "invalid_value"),
        ({"tools": [{"type": "custom", "name": "x", "format": {"type": "grammar"}}]},
         "tools[0].format.syntax", "missing_required_parameter"),
        ({"input": [{"type": "compaction", "encrypted_content": "x"}]},
         "input[0].encrypted_content", "invalid_encrypted_content"),
        ({"prompt_cache_options": {"prewarm": True}}, "prompt_cache_options.prewarm",
         "unsupported_parameter"),
        ({"text": {"format": {"type": "json_object"}}, "json_schema": {}}, "json_schema",
         "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice", "unsupported_parameter"),
        ({"include": ["everything"]}, "include[0]", "invalid_value"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.name",
         "missing_required_parameter"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"not": {}}}}},
         "text.format.schema", "invalid_value"),
        ({"metadata": {str(no): "x" for no in range(17)}}, "metadata", "array_above_max_length"),
        ({"max_output_tokens": 0}, "max_output_tokens", "integer_below_min_value"),
        ({"top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
        ({"background": True}, "background", "unsupported_parameter"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "unsupported_parameter"),
        ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
        ({"context_management": [{"type": "other"}]}, "context_management[0].type",
         "invalid_value"),
    ],
)  # fmt: skip
async def test_what_is_not_taken_is_named(fields: dict[str, Any], param: str, code: str) -> None:
    async with serve(ScriptedEngine("x"), STORE_URL="off") as running:
        body = {"model": "default", "input": "hi", **fields}
        answer = await running.client.post(PATH, json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code)


async def test_beam_searchs_values_of_no_effect_are_taken() -> None:
    async with serve(ScriptedEngine("x"), STORE_URL="off") as running:
        body = {"model": "default", "input": "hi", "use_beam_search": False,
                "length_penalty": 1.0, "early_stopping": False}  # fmt: skip
        assert (await running.client.post(PATH, json=body)).status_code == 200


async def test_an_item_by_its_id_is_not_found_where_nothing_is_kept() -> None:
    async with serve(ScriptedEngine("x"), STORE_URL="off") as running:
        answer = await ask(running, [{"role": "user", "content": "x"}, {"id": "rs_1"}])
    assert answer.status_code == 404
    assert "not kept" in answer.json()["error"]["message"]


async def test_null_is_absent_everywhere() -> None:
    from app.dialects.openai.responses.body import ResponsesBody

    nulls = {name: None for name in ResponsesBody.model_fields if name not in ("model", "input")}
    async with serve(ScriptedEngine("x")) as running:
        with_nulls = (await ask(running, **nulls)).raise_for_status().json()
        without = (await ask(running)).raise_for_status().json()
    for each in (with_nulls, without):
        del each["id"], each["created_at"], each["completed_at"], each["output"][0]["id"]
    assert with_nulls == without


async def test_what_codex_sends_first_is_taken() -> None:
    async with serve(ScriptedEngine("x", tool_call_parser=None)) as running:
        answer = await ask(
            running,
            [
                {"type": "message", "role": "developer", "id": "msg_1",
                 "content": [{"type": "input_text", "text": "rules"}]},
                {"type": "message", "role": "developer", "id": "msg_2",
                 "content": [{"type": "input_text", "text": "more"}]},
                {"type": "message", "role": "user", "id": "msg_3",
                 "content": [{"type": "input_text", "text": "hi"}]},
            ],
            tools=[{"type": "web_search", "external_web_access": True}],
            tool_choice="auto", parallel_tool_calls=True, reasoning={"summary": "auto"},
            store=False, include=["reasoning.encrypted_content"], prompt_cache_key="thread",
            client_metadata={"a": "b"},
        )  # fmt: skip
        assert answer.status_code == 200, answer.text
        (chat,) = running.engine.chats
    assert [(each.role, each.parts[0].text) for each in chat.messages] == [
        ("system", "rules\n\nmore"),
        ("user", "hi"),
    ]


async def test_the_count_of_tokens_is_that_of_the_same_request() -> None:
    fields = {"input": [{"role": "user", "content": "hello"}], "instructions": "be brief"}
    async with serve(ScriptedEngine("x")) as running:
        count = await running.client.post(f"{PATH}/input_tokens", json=fields)
        answer = await ask(running, **fields)
    assert count.json() == {
        "object": "response.input_tokens",
        "input_tokens": answer.json()["usage"]["input_tokens"],
    }


async def test_an_error_before_the_stream_has_its_own_status() -> None:
    async with serve(ScriptedEngine(InvalidRequest("no", param="input"))) as running:
        answer = await ask(running, stream=True)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "no"


async def test_a_format_constrains_the_answer_and_is_repeated() -> None:
    format = {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True}
    async with serve(ScriptedEngine("{}")) as running:
        answer = (await ask(running, text={"format": format})).raise_for_status().json()
        (_, sampling, _, _), *_ = running.engine.calls
    assert sampling.grammar.param == "text.format.schema"
    assert answer["text"]["format"] == format | {"description": None}
