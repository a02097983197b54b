"""The channels of gpt-oss, in all their spellings."""

from __future__ import annotations

import re

import pytest

from app.reading.harmony import Harmony
from tests.support.reading import calls_in, cuttings, read, text_in, thinking_in
from tests.support.tool_formats import TOOL_SAMPLES, Sample, sample_id

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
        pieces = read(Harmony(calls=True), parts)
        assert (thinking_in(pieces), text_in(pieces)) == ("Hm.", "Plan.")
        assert calls_in(pieces) == [("ping", {"a": 1})]


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
    whole = read(Harmony(calls=True), [AGENT])
    assert thinking_in(whole) == "Two cities; ask for both.Done."
    assert text_in(whole) == "I look it up.Rain in both."
    assert calls_in(whole) == [
        ("get_weather", {"city": "Oslo"}),
        ("get_weather", {"city": "Bod\u00f8 <north>"}),
    ]
    cuts = [[AGENT[:at], AGENT[at:]] for at in range(len(AGENT))]
    for parts in (tokens, list(AGENT), *cuts):
        assert read(Harmony(calls=True), parts) == whole


def test_harmony_without_tools_or_channels_is_text() -> None:
    assert text_in(read(Harmony(calls=False), [HEADERS[0] + "x"])) == "x"
    assert text_in(read(Harmony(calls=True), ["Just a < b."])) == "Just a < b."


@pytest.mark.parametrize(
    "sample", [each for each in TOOL_SAMPLES if each.parser == "gpt-oss"], ids=sample_id
)
def test_calls_of_gpt_oss_are_read_the_same_however_the_text_is_cut(sample: Sample) -> None:
    whole = read(Harmony(calls=True), [sample.text])
    assert calls_in(whole) == list(sample.calls)
    assert text_in(whole).split() == sample.content.split()
    for parts in cuttings(sample.text):
        assert read(Harmony(calls=True), parts) == whole, parts
