"""Law: any way of cutting a model's text gives the same content, thinking and calls."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from app.engine.sglang import importing
from app.reading.harmony import Harmony
from app.reading.json_calls import MarkedCalls
from app.reading.pieces import CallArguments, CallBegun, Piece, Reader, Said, Thought, joined
from tests.core.formats import (
    FORMATS,
    REASONING_SAMPLES,
    TOOL_SAMPLES,
    TOOLS,
    ReasoningSample,
    Sample,
)

importing.use_cpu()


def _reader(sample: Sample) -> Reader:
    from sglang.srt.entrypoints.openai.protocol import Tool

    from app.engine.sglang.readers import calls_reader

    return calls_reader(sample.parser, [Tool(**tool) for tool in TOOLS])


def _read(reader: Reader, parts: Sequence[str]) -> list[Piece]:
    pieces: list[Piece] = []
    for part in parts:
        pieces += reader.feed(part)
    return joined([*pieces, *reader.finish()])


def _cuttings(text: str) -> Iterator[Sequence[str]]:
    yield list(text)
    for cut in range(1, len(text)):
        yield text[:cut], text[cut:]
    for size in (2, 3, 5, 17):
        yield [text[at : at + size] for at in range(0, len(text), size)]
    yield re.findall(r"\w+|\s+|.", text, re.DOTALL)
    chance = random.Random(text)
    for _ in range(5):
        at = sorted(chance.sample(range(len(text)), min(12, len(text))))
        yield [text[a:b] for a, b in zip([0, *at], [*at, len(text)], strict=True)]


def _calls(pieces: Sequence[Piece]) -> list[tuple[str, object]]:
    found: list[tuple[str, str]] = []
    for piece in pieces:
        if isinstance(piece, CallBegun):
            found.append((piece.name, ""))
        elif isinstance(piece, CallArguments):
            found[-1] = (found[-1][0], found[-1][1] + piece.json)
    return [(name, json.loads(arguments or "{}")) for name, arguments in found]


def _said(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, Said))


def _thought(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, Thought))


def _name(sample: Sample | ReasoningSample) -> str:
    return f"{sample.parser}-{getattr(sample, 'kind', '')}"


# SGLang's own parsers of whole texts are wrong here, too.
KNOWN = {"step3-hard": "an argument with `<` in it is lost"}


def with_known(samples: Sequence[Sample]) -> list[Any]:
    """What is known to be wrong must be wrong still: mended, it is to be taken off the list."""
    return [
        pytest.param(
            sample, id=_name(sample),
            marks=[pytest.mark.xfail(strict=True, reason=KNOWN[_name(sample)])]
            if _name(sample) in KNOWN else [],
        )
        for sample in samples
    ]  # fmt: skip


@pytest.mark.parametrize("sample", with_known(TOOL_SAMPLES))
def test_calls_are_read_the_same_however_the_text_is_cut(sample: Sample) -> None:
    whole = _read(_reader(sample), [sample.text])
    assert _calls(whole) == [(name, arguments) for name, arguments in sample.calls]
    assert _said(whole).split() == sample.content.split()
    for parts in _cuttings(sample.text):
        assert _read(_reader(sample), parts) == whole, parts


def _thinking(sample: ReasoningSample) -> Reader:
    from app.engine.sglang.readers import SGLangThinking

    return SGLangThinking(sample.parser, forced=sample.forced, calls_follow=False)


@pytest.mark.parametrize("sample", REASONING_SAMPLES, ids=_name)
def test_thinking_is_read_the_same_however_the_text_is_cut(sample: ReasoningSample) -> None:
    whole = _read(_thinking(sample), [sample.text])
    assert _thought(whole).strip() == sample.reasoning.strip()
    assert _said(whole).strip() == sample.content.strip()
    for parts in _cuttings(sample.text):
        assert _read(_thinking(sample), parts) == whole, parts


THINK = "<|channel|>analysis<|message|>Hm.<|end|>"
HEADERS = [
    "<|start|>assistant<|channel|>commentary to=functions.ping <|constrain|>json<|message|>",
    "<|start|>assistant<|channel|>commentary to=functions.ping json<|message|>",
    "<|start|>assistant to=functions.ping<|channel|>commentary <|constrain|>json<|message|>",
]


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("end", ["<|call|>", ""])
def test_harmony_is_read_in_all_its_spellings(header: str, end: str) -> None:
    text = THINK + "<|channel|>commentary<|message|>Plan.<|end|>" + header + '{"a": 1}' + end
    for parts in ([text], list(text), [text[:50], text[50:]]):
        pieces = _read(Harmony(calls=True), parts)
        assert (_thought(pieces), _said(pieces)) == ("Hm.", "Plan.")
        assert _calls(pieces) == [("ping", {"a": 1})]


AGENT = (
    "<|channel|>analysis<|message|>Two cities; ask for both.<|end|>"
    "<|start|>assistant<|channel|>commentary<|message|>I look it up.<|end|>"
    "<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
    '{"city": "Oslo"}<|call|>'
    "<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
    '{"city": "Bod\u00f8 <north>"}<|call|>'
    "<|start|>assistant<|channel|>analysis<|message|>Done.<|end|>"
    "<|start|>assistant<|channel|>final<|message|>Rain in both.<|return|>"
)


def test_an_agents_turn_of_gpt_oss_is_read_the_same_wherever_it_is_cut() -> None:
    tokens = re.findall(r"<\|\w+\|>| ?\w+|\s|[^\w\s]", AGENT)
    assert "".join(tokens) == AGENT
    whole = _read(Harmony(calls=True), [AGENT])
    assert _thought(whole) == "Two cities; ask for both.Done."
    assert _said(whole) == "I look it up.Rain in both."
    assert _calls(whole) == [
        ("get_weather", {"city": "Oslo"}), ("get_weather", {"city": "Bod\u00f8 <north>"}),
    ]  # fmt: skip
    cuts = [[AGENT[:at], AGENT[at:]] for at in range(len(AGENT))]
    for parts in (tokens, list(AGENT), *cuts):
        assert _read(Harmony(calls=True), parts) == whole


def test_harmony_without_tools_or_channels_is_text() -> None:
    assert _said(_read(Harmony(calls=False), [HEADERS[0] + "x"])) == "x"
    assert _said(_read(Harmony(calls=True), ["Just a < b."])) == "Just a < b."


@pytest.mark.parametrize(
    ("given", "meant"), [('"{\\"a\\": [1]}"', {"a": [1]}), ("null", {}), ('{"a": 1}', {"a": 1})]
)
def test_arguments_that_are_no_object_are_made_one(given: str, meant: object) -> None:
    text = f'<tool_call>{{"name": "ping", "arguments": {given}}}</tool_call>'
    for parts in ([text], list(text)):
        reader = MarkedCalls("<tool_call>", "</tool_call>")
        assert _calls(_read(reader, parts)) == [("ping", meant)]


def test_mistral_may_write_several_blocks() -> None:
    text = '[TOOL_CALLS] [{"name": "ping", "arguments": {}}]' * 2
    pieces = _read(_reader(Sample("mistral", text, "")), [text])
    assert (_said(pieces), _calls(pieces)) == ("", [("ping", {}), ("ping", {})])


@pytest.mark.parametrize("name", ["deepseekv3", "deepseekv31", "deepseekv32", "hermes", "gpt-oss"])
def test_a_file_written_as_an_argument_is_read_in_time(name: str) -> None:
    form = next(each for each in FORMATS if name in each.names)
    written = ("search", {"query": "word\n" * 6_000 + "end", "limit": 1})
    text = form.write([written])
    started = time.process_time()
    (call,) = _calls(_read(_reader(Sample(name, text, "")), [text]))
    spent = time.process_time() - started
    print(f"{name}: {len(text)} characters in {spent:.2f} s")
    assert call == written
    assert spent < 3
