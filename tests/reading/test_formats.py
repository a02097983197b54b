"""Law: any way of cutting a model's text gives the same content, thinking and calls.

Over every format of SGLang's; that of each reader alone is in the files beside this one.
"""

from __future__ import annotations

import time

import pytest

from app.engine.sglang import importing
from app.reading.pieces import Reader
from tests.support.reading import calls_in, cuttings, read, text_in, thinking_in
from tests.support.thinking_formats import REASONING_SAMPLES, ReasoningSample
from tests.support.tool_formats import (
    FORMATS,
    TOOL_SAMPLES,
    TOOLS,
    Sample,
    sample_id,
    with_known,
)

pytestmark = pytest.mark.full


@pytest.fixture(scope="module", autouse=True)
def without_gpu() -> None:
    importing.use_cpu()


def _reader(sample: Sample) -> Reader:
    from sglang.srt.entrypoints.openai.protocol import Tool

    from app.engine.sglang.readers import calls_reader

    return calls_reader(sample.parser, [Tool(**tool) for tool in TOOLS])


@pytest.mark.parametrize("sample", with_known(TOOL_SAMPLES))
def test_calls_are_read_the_same_however_the_text_is_cut(sample: Sample) -> None:
    whole = read(_reader(sample), [sample.text])
    assert calls_in(whole) == [(name, arguments) for name, arguments in sample.calls]
    assert text_in(whole).split() == sample.content.split()
    for parts in cuttings(sample.text):
        assert read(_reader(sample), parts) == whole, parts


def _thinking(sample: ReasoningSample) -> Reader:
    from app.engine.sglang.readers import SGLangThinking

    return SGLangThinking(sample.parser, forced=sample.forced, calls_follow=False)


@pytest.mark.parametrize("sample", REASONING_SAMPLES, ids=sample_id)
def test_thinking_is_read_the_same_however_the_text_is_cut(sample: ReasoningSample) -> None:
    whole = read(_thinking(sample), [sample.text])
    assert thinking_in(whole).strip() == sample.reasoning.strip()
    assert text_in(whole).strip() == sample.content.strip()
    for parts in cuttings(sample.text):
        assert read(_thinking(sample), parts) == whole, parts


def test_mistral_may_write_several_blocks() -> None:
    text = '[TOOL_CALLS] [{"name": "ping", "arguments": {}}]' * 2
    pieces = read(_reader(Sample("mistral", text, "")), [text])
    assert (text_in(pieces), calls_in(pieces)) == ("", [("ping", {}), ("ping", {})])


@pytest.mark.parametrize("name", ["deepseekv3", "deepseekv31", "deepseekv32", "hermes", "gpt-oss"])
def test_a_file_written_as_an_argument_is_read_in_time(name: str) -> None:
    form = next(form for form in FORMATS if name in form.names)
    written = ("search", {"query": "word\n" * 6_000 + "end", "limit": 1})
    text = form.write([written])
    started = time.process_time()
    (call,) = calls_in(read(_reader(Sample(name, text, "")), [text]))
    spent = time.process_time() - started
    print(f"{name}: {len(text)} characters in {spent:.2f} s")
    assert call == written
    assert spent < 3
