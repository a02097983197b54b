"""Calls written as JSON objects."""

from __future__ import annotations

import pytest

from app.reading.json_calls import CallArray, MarkedCalls
from tests.support.reading import calls_in, cuttings, read, text_in
from tests.support.tool_formats import TOOL_SAMPLES, Sample, sample_id

MARKERS = {
    "hermes": ("<tool_call>", "</tool_call>"),
    "interns1": ("<|action_start|> <|plugin|>", "<|action_end|>"),
}


@pytest.mark.parametrize(
    "sample", [each for each in TOOL_SAMPLES if each.parser in MARKERS], ids=sample_id
)
def test_marked_calls_are_read_the_same_however_the_text_is_cut(sample: Sample) -> None:
    markers = MARKERS[sample.parser]
    whole = read(MarkedCalls(*markers), [sample.text])
    assert calls_in(whole) == list(sample.calls)
    assert text_in(whole).split() == sample.content.split()
    for parts in cuttings(sample.text):
        assert read(MarkedCalls(*markers), parts) == whole, parts


@pytest.mark.parametrize(
    ("arguments", "meant"), [('"{\\"a\\": [1]}"', {"a": [1]}), ("null", {}), ('{"a": 1}', {"a": 1})]
)
def test_arguments_that_are_no_object_are_made_one(arguments: str, meant: object) -> None:
    text = f'<tool_call>{{"name": "ping", "arguments": {arguments}}}</tool_call>'
    for parts in ([text], list(text)):
        reader = MarkedCalls("<tool_call>", "</tool_call>")
        assert calls_in(read(reader, parts)) == [("ping", meant)]


def test_a_marker_that_no_call_follows_is_text() -> None:
    text = "Write <tool_call> and a name."
    for parts in cuttings(text):
        assert text_in(read(MarkedCalls("<tool_call>", "</tool_call>"), parts)) == text


@pytest.mark.parametrize("after", ["", "\n", "\n["])
def test_a_marker_at_which_the_answer_is_cut_off_is_no_text(after: str) -> None:
    text = "I look.<tool_call>" + after
    for parts in cuttings(text):
        assert text_in(read(MarkedCalls("<tool_call>", "</tool_call>"), parts)) == "I look."


CALLS = (
    '[{"name": "search", "parameters": {"query": "a]}\\"{", "limit": 3}}, '
    '{"parameters": {}, "name": "ping"}]'
)


def test_an_array_of_calls_is_read_the_same_however_it_is_cut() -> None:
    whole = read(CallArray(), [CALLS])
    assert calls_in(whole) == [("search", {"query": 'a]}"{', "limit": 3}), ("ping", {})]
    for parts in cuttings(CALLS):
        assert read(CallArray(), parts) == whole, parts


def test_a_control_character_in_a_string_is_escaped_and_outside_it_is_not() -> None:
    text = '<tool_call>{"name": "ping", "arguments": {"a":\n"one\ntwo\\"\tthree"}}</tool_call>'
    for parts in cuttings(text):
        calls = calls_in(read(MarkedCalls("<tool_call>", "</tool_call>"), parts))
        assert calls == [("ping", {"a": 'one\ntwo"\tthree'})], parts
