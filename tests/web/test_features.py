"""What a chat or completion may ask for, on the scripted engine: exact texts, exact frames."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.engine.sglang import importing
from app.types import Text
from tests.support import sse
from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve

importing.use_cpu()


def _function(name: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": name, "parameters": {"type": "object"}, **more},
    }


def _call(name: str, arguments: str = "{}") -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>\n'


TOOLS = [_function("first"), _function("second")]
NAMED = {"type": "function", "function": {"name": "second"}}


async def _message(engine: ScriptedEngine, **fields: Any) -> tuple[dict[str, Any], str]:
    async with serve(engine) as running:
        answer = (await running.chat(**fields)).raise_for_status().json()
    (choice,) = answer["choices"]
    return choice["message"], choice["finish_reason"]


def _names(message: dict[str, Any]) -> list[str]:
    return [call["function"]["name"] for call in message.get("tool_calls", ())]


@pytest.mark.full
async def test_text_before_a_call_is_content_and_blank_around_it_is_not() -> None:
    text = "I will look.\n\n" + _call("first") + _call("second", '{"x": [1]}') + "\n"
    message, finish = await _message(ScriptedEngine(text), tools=TOOLS)
    assert message["content"] == "I will look.\n\n"
    assert (_names(message), finish) == (["first", "second"], "tool_calls")
    message, _ = await _message(ScriptedEngine("\n\n", _call("first")), tools=TOOLS)
    assert message["content"] is None


@pytest.mark.full
async def test_only_one_call_where_only_one_was_asked_for() -> None:
    text = _call("first") + _call("second")
    asked = {"tools": TOOLS, "parallel_tool_calls": False}
    message, finish = await _message(ScriptedEngine(text), **asked)
    assert (_names(message), finish) == (["first"], "tool_calls")
    array = '[{"name": "first", "parameters": {}}, {"name": "second", "parameters": {}}]'
    message, _ = await _message(ScriptedEngine(array), tool_choice="required", **asked)
    assert _names(message) == ["first"]


@pytest.mark.full
async def test_a_named_call_ends_with_stop_and_others_do_not_count() -> None:
    array = '[{"name": "second", "parameters": {"a": 1}}]'
    message, finish = await _message(ScriptedEngine(array), tools=TOOLS, tool_choice=NAMED)
    assert (_names(message), finish) == (["second"], "stop")


@pytest.mark.full
async def test_calls_that_are_not_allowed_are_dropped() -> None:
    allowed = {
        "type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]},
    }  # fmt: skip
    text = _call("first") + _call("second") + _call("third")
    message, _ = await _message(ScriptedEngine(text), tools=TOOLS, tool_choice=allowed)
    assert _names(message) == ["second"]


@pytest.mark.full
async def test_a_call_that_was_cut_off_ends_with_length() -> None:
    engine = ScriptedEngine('<tool_call>\n{"name": "first", "arguments": {"a', finish="length")
    message, finish = await _message(engine, tools=TOOLS)
    assert (_names(message), finish) == (["first"], "length")


@pytest.mark.full
async def test_markers_that_are_only_spoken_of_stay_text() -> None:
    for text in ("Write <tool_call> first.", "a < b <tool", "<tool_call>\nnot json", "<"):
        message, finish = await _message(ScriptedEngine(*text), tools=TOOLS)
        assert (message["content"], finish) == (text, "stop")
        assert "tool_calls" not in message


async def test_tools_that_may_not_be_called_are_not_looked_for() -> None:
    text = _call("first")
    message, finish = await _message(ScriptedEngine(text), tools=TOOLS, tool_choice="none")
    assert (message["content"], finish) == (text, "stop")


@pytest.mark.full
async def test_custom_tools_get_and_give_their_text_as_it_is() -> None:
    tools = [{"type": "custom", "custom": {"name": "patch", "description": "d"}}]
    written = 'a "quoted"\nline'
    engine = ScriptedEngine(*_call("patch", json.dumps({"input": written})))
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
    engine = ScriptedEngine(script=lambda no: [_call(["first", "second"][no])])
    async with serve(engine) as running:
        frames = sse.frames((await running.chat(tools=TOOLS, n=2, stream=True)).text)
    found: dict[int, list[str]] = {0: [], 1: []}
    for frame in frames[:-1]:
        (choice,) = frame["choices"]
        for piece in choice["delta"].get("tool_calls", ()):
            assert piece["index"] == 0
            if "id" in piece:
                found[choice["index"]].append(piece["function"]["name"])
    assert found == {0: ["first"], 1: ["second"]}


@pytest.mark.full
async def test_ids_names_and_roles_are_said_once() -> None:
    """The SDKs add up strings: what is said twice arrives twice."""
    async with serve(ScriptedEngine(*_call("first", '{"a": "b"}'))) as running:
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
async def test_strict_tools_and_schemas_reach_the_engine_as_grammars() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    engine = ScriptedEngine("{}")
    async with serve(engine) as running:
        await running.chat(response_format=format)
        await running.chat(tools=[_function("first", strict=True)])
        await running.chat(tools=TOOLS)
        await running.chat(tools=TOOLS, response_format=format)
        await running.chat(tools=TOOLS, response_format={"type": "text"})
    plain, strict, auto, both, text = [sampling.grammar for _, sampling, _, _ in engine.calls]
    assert plain is not None
    assert json.loads(plain.text) == schema
    assert strict is not None
    assert strict.kind == "structural_tag"
    (tag,) = json.loads(strict.text)["format"]["tags"]
    assert tag["content"]["max_whitespace_cnt"] == 1  # a model may not go on with blanks
    assert auto is text is None
    assert both is not None
    elements = json.loads(both.text)["format"]["elements"]
    few_blanks = {"max_whitespace_cnt": 1}
    assert elements[0] == {"type": "json_schema", "json_schema": schema} | few_blanks
    assert all(tag["content"].items() > few_blanks.items() for tag in elements[1]["tags"])


@pytest.mark.full
async def test_grammars_wait_for_the_end_of_the_thinking() -> None:
    engine = ScriptedEngine(
        "Let me see: {}.", "</think>", '{"a": 1}', reasoning_parser="qwen3",
        thinking=True, gates_grammar=True,
    )  # fmt: skip
    message, _ = await _message(engine, response_format={"type": "json_object"})
    assert message["reasoning_content"] == "Let me see: {}."
    assert json.loads(message["content"]) == {"a": 1}
    assert engine.gated == [True]


@pytest.mark.full
async def test_thinking_has_its_alias_where_it_is_configured() -> None:
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
    message, _ = await _message(engine())
    assert "reasoning" not in message


async def test_thinking_of_earlier_turns_and_switches_reach_the_template() -> None:
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


async def test_grammars_are_taken_only_where_the_operator_allows_them() -> None:
    engine = ScriptedEngine("x")
    fields: list[dict[str, Any]] = [
        {"regex": "a+"}, {"ebnf": 'root ::= "a"'}, {"guided_choice": ["yes", 'n"o']},
        {"guided_json": {"type": "object"}}, {"structured_outputs": {"regex": "b"}},
    ]  # fmt: skip
    async with serve(engine) as running:
        for field in fields:
            assert (await running.chat(**field)).status_code == 400
    async with serve(engine, ALLOW_GRAMMARS="true") as running:
        for field in fields:
            assert (await running.chat(**field)).status_code == 200
        assert (await running.chat(regex="a", ebnf="b")).status_code == 400
        assert (await running.chat(regex="a{99999}")).status_code == 400
        assert (await running.chat(structured_outputs={})).status_code == 400
    grammars = [sampling.grammar for _, sampling, _, _ in engine.calls]
    assert [grammar and (grammar.kind, grammar.text) for grammar in grammars] == [
        ("regex", "a+"), ("ebnf", 'root ::= "a"'), ("ebnf", 'root ::= "yes" | "n\\"o"'),
        ("json_schema", '{"type":"object"}'), ("regex", "b"),
    ]  # fmt: skip


async def test_the_gap_of_a_text_is_filled_by_models_that_can() -> None:
    engine = ScriptedEngine("mid", fills_middle=True)
    async with serve(engine) as running:
        body = {"prompt": "def f(", "suffix": "): pass"}
        assert (await running.client.post("/v1/completions", json=body)).status_code == 200
        for wrong in ({"echo": True}, {"prompt": [1, 2]}):
            answer = await running.client.post("/v1/completions", json=body | wrong)
            assert answer.status_code == 400
    assert engine.calls[0][0] == engine.infill("def f(", "): pass")


async def test_scores_come_with_the_text_that_they_belong_to() -> None:
    async with serve(ScriptedEngine("one ", "two ", "three")) as running:
        asked = {"logprobs": True, "top_logprobs": 1, "stream": True}
        frames = sse.frames((await running.chat(**asked)).text)[1:-1]
    for frame in frames[:-1]:
        (choice,) = frame["choices"]
        tokens = choice["logprobs"]["content"]
        assert "".join(token["token"] for token in tokens) == choice["delta"]["content"]


async def test_more_scores_than_memory_holds_are_refused() -> None:
    async with serve(ScriptedEngine("x"), MAX_PROMPT_SCORES="20") as running:
        body = {"prompt": "a" * 11, "echo": True, "logprobs": 1}
        answer = await running.client.post("/v1/completions", json=body)
        fine = await running.client.post("/v1/completions", json=body | {"prompt": "a" * 10})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "logprobs")
    assert fine.status_code == 200


@pytest.mark.parametrize("best_of", [1, 3])
async def test_best_of_counts_all_and_gives_the_likeliest(best_of: int) -> None:
    engine = ScriptedEngine(script=lambda no: ["abc"[no]])
    async with serve(engine) as running:
        body = {"prompt": "x", "best_of": best_of}
        answer = (await running.client.post("/v1/completions", json=body)).json()
        streamed = await running.client.post("/v1/completions", json=body | {"stream": True})
    assert len(answer["choices"]) == 1
    assert answer["choices"][0]["logprobs"] is None
    assert answer["usage"]["completion_tokens"] == best_of
    assert streamed.status_code == (200 if best_of == 1 else 400)


@pytest.mark.full
async def test_a_call_of_a_tool_that_there_is_not_is_better_said_than_lost() -> None:
    message, finish = await _message(ScriptedEngine(_call("third", '{"a": 1}')), tools=TOOLS)
    assert json.loads(message["content"]) == {"name": "third", "arguments": '{"a": 1}'}
    assert finish == "stop"


@pytest.mark.parametrize(
    ("fields", "kwargs", "effort"),
    [
        ({"enable_thinking": False}, {"enable_thinking": False, "thinking": False}, None),
        ({"thinking": {"type": "enabled"}}, {"enable_thinking": True, "thinking": True}, None),
        ({"reasoning": {"effort": "none"}}, {}, "none"),
        ({"reasoning": {"enabled": False}}, {"enable_thinking": False, "thinking": False}, None),
    ],
)
async def test_thinking_is_switched_as_each_client_is_used_to(
    fields: dict[str, Any], kwargs: dict[str, Any], effort: str | None
) -> None:
    engine = ScriptedEngine("x")
    async with serve(engine) as running:
        assert (await running.chat(**fields)).status_code == 200
    assert (engine.chats[0].template_kwargs, engine.chats[0].effort) == (kwargs, effort)


@pytest.mark.full
async def test_what_agents_send_back_is_taken() -> None:
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


@pytest.mark.full
@pytest.mark.parametrize("tools", [{}, {"tools": TOOLS}])
async def test_json_that_was_asked_for_is_json(tools: dict[str, Any]) -> None:
    """Grammars let control characters into strings with a bound on their length."""
    raw = '{"a": "tab\there\\" \x01", \n"b": 1}'
    asked = {"response_format": {"type": "json_object"}, **tools}
    for pieces in ([raw], list(raw)):
        message, _ = await _message(ScriptedEngine(*pieces), **asked)
        assert json.loads(message["content"]) == {"a": 'tab\there" \x01', "b": 1}
    call = '[{"name": "first", "parameters": {"a": "x\ty"}}]'
    message, _ = await _message(ScriptedEngine(*call), tools=TOOLS, tool_choice="required")
    (made,) = message["tool_calls"]
    assert json.loads(made["function"]["arguments"]) == {"a": "x\ty"}
    async with serve(ScriptedEngine(raw)) as running:
        body = {"prompt": "x", "response_format": {"type": "json_object"}}
        answer = (await running.client.post("/v1/completions", json=body)).json()
    assert json.loads(answer["choices"][0]["text"])["b"] == 1


@pytest.mark.parametrize(
    ("field", "fits", "too_much"),
    [
        ("stop", ["a", "b"], ["a", "b", "c"]),
        ("stop", "abcd", "abcde"),
        ("stop_token_ids", [1, 2], [1, 2, 3]),
        ("logit_bias", {"1": 1, "2": 1}, {"1": 1, "2": 1, "3": 1}),
        ("n", 2, 3),
    ],
)
async def test_counts_are_the_operators(field: str, fits: Any, too_much: Any) -> None:
    bounds = {
        "MAX_STOPS": "2", "MAX_STOP_CHARS": "4", "MAX_STOP_TOKEN_IDS": "2",
        "MAX_LOGIT_BIASES": "2", "MAX_CHOICES": "2",
    }  # fmt: skip
    async with serve(ScriptedEngine("x"), **bounds) as running:
        document = (await running.client.get("/openapi.json")).json()
        for given, status in ((fits, 200), (too_much, 400)):
            chat = await running.chat(**{field: given})
            native = await running.client.post(
                "/generate", json={"text": "x", "sampling_params": {field: given}}
            )
            assert (chat.status_code, native.status_code) == (status, status)
            if status == 400:
                assert chat.json()["error"]["param"].startswith(field)
                assert native.json()["error"]["param"].startswith(f"sampling_params.{field}")
    described = json.dumps(document["components"]["schemas"]["ChatBody"]["properties"][field])
    assert any(f'"{word}": 2' in described for word in ("maximum", "maxItems", "maxProperties"))


async def test_the_engine_forgets_grammars_when_it_has_nothing_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It keeps each that it was ever given; only emptying its caches makes it forget them."""
    monkeypatch.setattr("app.generation.model._GRAMMARS_KEPT", 2)
    engine = ScriptedEngine("{}")
    async with serve(engine) as running:
        for no in (1, 1, 2, 3):
            format = {"name": "x", "schema": {"type": "object", "title": str(no)}}
            asked = {"type": "json_schema", "json_schema": format}
            assert (await running.chat(response_format=asked)).status_code == 200
            assert engine.flushed == (no == 3)
