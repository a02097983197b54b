"""Law: any way of cutting a model's text gives the same content, thinking and calls."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence

import pytest

from app.core.parsing import CallArguments, CallBegun, Piece, Reader, Said, Thought, joined
from app.engine import environment
from tests.core.formats import REASONING_SAMPLES, TOOL_SAMPLES, TOOLS, ReasoningSample, Sample

environment.use_cpu()


def _reader(sample: Sample) -> Reader:
    from sglang.srt.entrypoints.openai.protocol import Tool

    from app.core.sglang_parsers import calls_reader

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


@pytest.mark.parametrize("sample", TOOL_SAMPLES, ids=_name)
def test_calls_are_read_the_same_however_the_text_is_cut(sample: Sample) -> None:
    if (known := KNOWN.get(_name(sample))) is not None:
        pytest.xfail(known)
    whole = _read(_reader(sample), [sample.text])
    assert _calls(whole) == [(name, arguments) for name, arguments in sample.calls]
    assert _said(whole).split() == sample.content.split()
    for parts in _cuttings(sample.text):
        assert _read(_reader(sample), parts) == whole, parts


def _thinking(sample: ReasoningSample) -> Reader:
    from app.core.sglang_parsers import SGLangThinking

    return SGLangThinking(sample.parser, forced=sample.forced, calls_follow=False)


@pytest.mark.parametrize("sample", REASONING_SAMPLES, ids=_name)
def test_thinking_is_read_the_same_however_the_text_is_cut(sample: ReasoningSample) -> None:
    whole = _read(_thinking(sample), [sample.text])
    assert _thought(whole).strip() == sample.reasoning.strip()
    assert _said(whole).strip() == sample.content.strip()
    for parts in _cuttings(sample.text):
        assert _read(_thinking(sample), parts) == whole, parts
