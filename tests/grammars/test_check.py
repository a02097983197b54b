"""Grammars are compiled on trial, in a process of their own, before the engine gets them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

import psutil
import pytest
from structlog.testing import capture_logs

from app.errors import InvalidRequest, Overloaded, Unavailable
from app.grammars.check import GrammarCheck
from app.grammars.compiler import BYTES, Vocabulary
from app.types import Grammar
from tests.support.serving import eventually


@pytest.fixture
async def check() -> AsyncIterator[GrammarCheck]:
    check = GrammarCheck(BYTES, timeout_s=0.5)
    yield check
    await check.close()


def _schema(text: str, param: str = "response_format") -> Grammar:
    return Grammar("json_schema", text, param)


def _slow(no: int) -> Grammar:
    """Two seconds and more."""
    return _schema(json.dumps({"type": "integer", "multipleOf": 399_989 + 2 * no}))


async def test_a_grammar_is_given_in_the_form_that_the_engine_compiles(
    check: GrammarCheck,
) -> None:
    grammar = await check.check(_schema('{"type":"null"}'))
    assert grammar.text == '{"type":"null"}'
    assert grammar.compiled is not None
    assert "x-guidance" in grammar.compiled


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        ("json_schema", '{"items":{"not":{}}}',
         "it has 'not' at #/items, which cannot be enforced."),
        ("regex", "((((", "it has a 'pattern' that is not valid, or not supported."),
        ("ebnf", 'root ::= "a', "it is no grammar that can be read."),
        ("structural_tag", '{"type":"structural_tag","format":{}}',
         "it has a format of type 'None', which is not supported."),
    ],
)  # fmt: skip
async def test_one_that_cannot_be_enforced_is_refused_with_the_reason_and_the_field(
    check: GrammarCheck, kind: str, text: str, reason: str
) -> None:
    for param in ("response_format", "regex"):  # the second time it is known
        with pytest.raises(InvalidRequest) as refused:
            await check.check(Grammar(kind, text, param))  # type: ignore[arg-type]
        assert refused.value.message == f"Invalid value for '{param}': {reason}"
        assert refused.value.param == param


async def test_of_a_grammar_made_of_several_schemas_the_one_at_fault_is_named(
    check: GrammarCheck,
) -> None:
    whole = {"anyOf": [{"type": "null"}, {"contains": {}}]}
    parts = (("tools[0].function.parameters", '{"type":"null"}'),
             ("tools[1].function.parameters", '{"contains":{}}'))  # fmt: skip
    with pytest.raises(InvalidRequest, match="'contains' at #,") as refused:
        await check.check(Grammar("json_schema", json.dumps(whole), "tools", parts))
    assert refused.value.param == "tools[1].function.parameters"


async def test_without_a_vocabulary_no_grammar_is_taken() -> None:
    check = GrammarCheck(None, timeout_s=1)
    check.warm_up()
    with pytest.raises(InvalidRequest, match="this model's tokenizer") as refused:
        await check.check(_schema("{}"))
    assert refused.value.param == "response_format"
    await check.close()


WORDPIECE = json.dumps(
    {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "BertNormalizer"},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "vocab": {"[UNK]": 0, "a": 1}},
    }
)
"""As of BERT, which llguidance cannot use."""


@pytest.mark.parametrize("tokenizer", ["{}", WORDPIECE])
async def test_a_tokenizer_that_cannot_be_used_is_told_once_and_refuses_grammars(
    tokenizer: str,
) -> None:
    check = GrammarCheck(Vocabulary(tokenizer), timeout_s=1)
    with capture_logs() as lines:
        check.warm_up()
        for param in ("response_format", "tools"):
            with pytest.raises(InvalidRequest, match="this model's tokenizer") as refused:
                await check.check(_schema("{}", param))
            assert refused.value.param == param
    await check.close()
    (line,) = lines
    assert line["event"] == "schemas are refused"


async def test_the_process_that_compiles_what_clients_send_inherits_no_secret(
    check: GrammarCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf")
    await check.check(_schema("{}"))
    environment = psutil.Process(_pid(check)).environ()
    assert "PATH" in environment
    assert "HF_TOKEN" not in environment


def _pid(check: GrammarCheck) -> int:
    assert check._process is not None
    assert check._process.pid is not None
    return check._process.pid


async def test_a_slow_grammar_is_ended_and_the_next_is_tried(check: GrammarCheck) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await check.check(_slow(0))
    assert refused.value.code == "grammar_timeout"
    await check.check(_schema('{"type":"object"}'))


async def test_an_ordinary_grammar_does_not_wait_for_slow_ones(check: GrammarCheck) -> None:
    await check.check(_schema("{}"))
    slow = [asyncio.create_task(check.check(_slow(no))) for no in range(50)]
    await asyncio.sleep(0)
    await check.check(_schema('{"type":"null"}'))
    assert sum(each.done() for each in slow) <= 10  # of those that are ended early, some
    for each in slow:
        each.cancel()
    ends = await asyncio.gather(*slow, return_exceptions=True)
    kinds = {asyncio.CancelledError, Overloaded, InvalidRequest, Grammar}
    assert {type(end) for end in ends} <= kinds


async def test_clients_that_have_gone_take_their_grammars_along(check: GrammarCheck) -> None:
    await check.check(_schema("{}"))
    gone = [asyncio.create_task(check.check(_slow(no))) for no in range(20)]
    await asyncio.sleep(0)
    for each in gone:
        each.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    await check.check(_schema('{"type":"null"}'))
    await eventually(lambda: not check._trials)
    used = psutil.Process(_pid(check)).cpu_times()
    assert used.children_user + used.children_system < 0.5  # twenty would take four seconds


async def test_too_many_new_grammars_are_refused(check: GrammarCheck) -> None:
    trials = [
        asyncio.create_task(check.check(_schema(json.dumps({"const": no})))) for no in range(300)
    ]
    ends = await asyncio.gather(*trials, return_exceptions=True)
    assert sum(isinstance(end, Overloaded) for end in ends) == 300 - 256
    assert sum(isinstance(end, Grammar) for end in ends) == 256


async def test_of_two_requests_with_one_grammar_one_may_disconnect(check: GrammarCheck) -> None:
    leaving, staying = (
        asyncio.create_task(check.check(_schema('{"type":"boolean"}'))) for _ in range(2)
    )
    await asyncio.sleep(0)
    leaving.cancel()
    assert (await staying).compiled is not None


async def test_a_known_grammar_is_not_tried_again(check: GrammarCheck) -> None:
    grammar = await check.check(_schema('{"type":"integer"}'))
    psutil.Process(_pid(check)).kill()
    started = time.thread_time()
    assert await check.check(_schema('{"type":"integer"}')) == grammar
    assert time.thread_time() - started < 0.05


async def test_a_process_that_ends_is_started_again(check: GrammarCheck) -> None:
    await check.check(_schema("{}"))
    trial = asyncio.create_task(check.check(_slow(0)))
    await asyncio.sleep(0.05)
    psutil.Process(_pid(check)).kill()
    with pytest.raises(Unavailable):
        await trial
    await check.check(_schema('{"type":"null"}'))
