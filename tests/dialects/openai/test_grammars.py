"""Fields that constrain the form of an answer, and the answers under a grammar."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.engine.sglang import importing
from tests.dialects.openai.tool_calls import (
    TOOLS,
    function_tool,
    message_of,
)
from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve

importing.use_cpu()


@pytest.mark.full
async def test_strict_tools_and_schemas_reach_the_engine_as_grammars() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    engine = ScriptedEngine("{}")
    async with serve(engine) as running:
        await running.chat(response_format=format)
        await running.chat(tools=[function_tool("first", strict=True)])
        await running.chat(tools=TOOLS)
        await running.chat(tools=TOOLS, response_format=format)
        await running.chat(tools=TOOLS, response_format={"type": "text"})
    plain, strict, auto, both, text = [sampling.grammar for _, sampling, _, _ in engine.calls]
    assert plain is not None
    assert json.loads(plain.text) == schema
    assert strict is not None
    assert strict.kind == "structural_tag"
    (tag,) = json.loads(strict.text)["format"]["tags"]
    assert tag["content"]["type"] == "json_schema"
    assert strict.parts[0][0] == "tools[0].function.parameters"
    assert auto is text is None
    assert both is not None
    elements = json.loads(both.text)["format"]["elements"]
    assert elements[0] == {"type": "json_schema", "json_schema": schema}
    assert {tag["content"]["type"] for tag in elements[1]["tags"]} == {"json_schema"}
    assert both.parts[0][0] == "response_format.json_schema.schema"


async def test_grammars_are_accepted_only_if_the_operator_allows_them() -> None:
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
        ("regex", "a+"), ("ebnf", 'root ::= "a"'), ("choice", '["yes", "n\\"o"]'),
        ("json_schema", '{"type":"object"}'), ("regex", "b"),
    ]  # fmt: skip


@pytest.mark.full
async def test_grammars_apply_only_after_the_thinking() -> None:
    engine = ScriptedEngine(
        "Let me see: {}.", "</think>", '{"a": 1}', reasoning_parser="qwen3",
        thinking=True, gates_grammar=True,
    )  # fmt: skip
    message, _ = await message_of(engine, response_format={"type": "json_object"})
    assert message["reasoning_content"] == "Let me see: {}."
    assert json.loads(message["content"]) == {"a": 1}
    assert engine.gated == [True]
