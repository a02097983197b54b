"""Schemas and grammars are bounded, then compiled on trial, before the engine gets them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest

from app.errors import InvalidRequest
from app.generation.grammars import GrammarCheck, check_regex, check_schema
from app.settings.bounds import GrammarBounds
from app.types import Grammar

BOUNDS = GrammarBounds(
    max_schema_bytes=65_536,
    max_schema_depth=32,
    max_schema_nodes=1000,
    max_schema_enum=500,
    max_regex_chars=1024,
    max_regex_repeat=1000,
)


def _nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels - 1):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        (_nested(32), _nested(33)),
        ({"enum": list(range(500))}, {"enum": list(range(501))}),
        ({"anyOf": [{}] * 998}, {"anyOf": [{}] * 999}),
        ({"title": "x" * 65_500}, {"title": "x" * 65_600}),
        ({"pattern": "a" * 1024}, {"pattern": "a" * 1025}),
        ({"pattern": "a{1,1000}"}, {"pattern": "a{1,1001}"}),
        ({"pattern": "a{1000}"}, {"pattern": "a{1001}"}),
        ({"pattern": "a{1000}"}, {"pattern": "a{ , 99999999999}"}),
        ({"pattern": "a"}, {"items": {"pattern": "\0"}}),
    ],
)
def test_each_bound_holds_to_the_last(inside: Any, outside: Any) -> None:
    check_schema(inside, BOUNDS, param="x")
    with pytest.raises(InvalidRequest) as refused:
        check_schema(outside, BOUNDS, param="x")
    assert refused.value.param == "x"
    assert len(refused.value.message) < 200


def test_depth_costs_no_stack() -> None:
    with pytest.raises(InvalidRequest):
        check_schema(_nested(100_000), BOUNDS, param="x")


def test_a_pattern_is_checked_in_linear_time() -> None:
    started = time.thread_time()
    with pytest.raises(InvalidRequest):
        check_regex("{" * 1_000_000, BOUNDS, param="x")
    assert time.thread_time() - started < 0.5


@pytest.fixture(scope="module")
def vocabulary() -> str:
    import xgrammar

    tokens = [bytes([value]) for value in range(256)] + [b"<end>"]
    info = xgrammar.TokenizerInfo(tokens, stop_token_ids=[256])
    return str(info.serialize_json())


@pytest.fixture
async def check(vocabulary: str) -> AsyncIterator[GrammarCheck]:
    check = GrammarCheck(vocabulary, timeout_s=5)
    yield check
    await check.close()


@pytest.mark.full
async def test_a_grammar_that_is_wrong_is_refused_with_the_reason(
    check: GrammarCheck,
) -> None:
    await check.check(Grammar("json_schema", '{"type":"object"}'))
    await check.check(Grammar("regex", "[a-z]+"))
    for grammar in (
        Grammar("json_schema", '{"type":"nonsense"}', "response_format"),
        Grammar("regex", "((((", "response_format"),
        Grammar("ebnf", 'root ::= "a', "response_format"),
        Grammar("structural_tag", '{"type":"structural_tag","format":{}}', "response_format"),
    ):
        with pytest.raises(InvalidRequest, match="cannot be compiled") as refused:
            await check.check(grammar)
        assert refused.value.param == "response_format"
        assert "/" not in refused.value.message.partition("compiled: ")[2][:20]
    assert check.compiled == 2


@pytest.mark.full
async def test_the_process_that_compiles_what_clients_send_inherits_no_secret(
    check: GrammarCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf")
    await check.check(Grammar("json_schema", "{}"))
    assert check._process is not None
    assert check._process._process is not None
    environment = psutil.Process(check._process._process.pid).environ()
    assert "PATH" in environment
    assert "HF_TOKEN" not in environment


PATTERN = {"type": "string", "pattern": "^([a-z]|[0-9]|[A-Z]){1,64}(foo|bar|baz){0,64}$"}
SLOW = json.dumps({"type": "object", "properties": {f"p{no}": PATTERN for no in range(600)}})
"""Half a minute, even with a vocabulary of bytes."""


@pytest.mark.full
async def test_a_slow_grammar_is_ended_and_the_next_is_tried(
    vocabulary: str,
) -> None:
    check = GrammarCheck(vocabulary, timeout_s=1)
    try:
        with pytest.raises(InvalidRequest) as refused:
            await check.check(Grammar("json_schema", SLOW))
        assert refused.value.code == "grammar_timeout"
        await check.check(Grammar("json_schema", '{"type":"object"}'))
    finally:
        await check.close()


@pytest.mark.full
async def test_a_disconnect_during_a_trial_does_not_affect_the_next(check: GrammarCheck) -> None:
    await check.check(Grammar("json_schema", "{}"))
    leaving = asyncio.create_task(check.check(Grammar("regex", "((((")))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await check.check(Grammar("regex", "[a-z]"))


@pytest.mark.full
async def test_a_known_grammar_is_not_tried_again(check: GrammarCheck) -> None:
    grammar = Grammar("json_schema", '{"type":"integer"}')
    await check.check(grammar)
    assert check._process is not None
    await check._process._kill()
    started = time.thread_time()
    await check.check(grammar)
    assert time.thread_time() - started < 0.05
