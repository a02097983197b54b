"""Pieces in, events out: ids and order of calls, blanks, finish reasons."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from app.events import (
    EndReason,
    Event,
    Finished,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
)
from app.generation.interpreter import Interpreter
from app.reading.pieces import CallArguments, CallBegun, Piece, Said, Thought
from app.types import Tool, ToolUse

PING, NOTE = CallBegun("ping"), CallBegun("note")
TOOLS = (Tool(name="ping"), Tool(name="note", freeform=True), Tool(name="other"))


class Played:
    """A reader that finds these pieces, whatever the text is."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = list(pieces)

    def feed(self, text: str) -> list[Piece]:
        return self._pieces

    def finish(self) -> list[Piece]:
        return []


def use(*, parallel: bool = True, named: bool = False) -> ToolUse:
    return ToolUse(tools=TOOLS, allowed=("ping", "note"), parallel=parallel, named=named)


def events(*pieces: Piece, tools: ToolUse | None = None, reason: EndReason = "stop") -> list[Event]:
    interpreter = Interpreter(0, Played(pieces), tools or use())
    return [*interpreter.text("x"), *interpreter.end(reason, None)]


def test_a_choice_without_a_reader_is_its_text() -> None:
    plain = Interpreter(2, None, None)
    assert plain.text(" a") == [TextDelta(" a", 2)]
    assert plain.end("length", None) == [Finished("length", 2)]


def test_calls_are_numbered_and_have_ids_of_their_own() -> None:
    got = events(PING, CallArguments('{"a":'), CallArguments(" 1}"), PING, CallArguments("{}"))
    started = [event for event in got if isinstance(event, ToolCallStarted)]
    assert [event.call for event in started] == [0, 1]
    assert len({event.id for event in started}) == 2
    assert [(event.call, event.arguments) for event in got if isinstance(event, ToolCallDelta)] == [
        (0, '{"a":'),
        (0, " 1}"),
        (1, "{}"),
    ]
    assert got[-1] == Finished("tool_calls", 0)


def test_blank_text_beside_calls_is_dropped_and_before_text_is_kept() -> None:
    assert not [e for e in events(Said("\n"), PING, Said("\n ")) if isinstance(e, TextDelta)]
    assert TextDelta("\n b", 0) in events(PING, Said("\n"), Said(" b"))
    assert events(Said("  ")) == [TextDelta("  ", 0), Finished("stop", 0)]


def test_thinking_is_passed_on_as_thinking() -> None:
    assert events(Thought(" hm"), Said("a"))[:2] == [ReasoningDelta(" hm", 0), TextDelta("a", 0)]


def test_a_call_without_arguments_has_an_empty_object_unless_it_was_cut_off() -> None:
    assert [e.arguments for e in events(PING) if isinstance(e, ToolCallDelta)] == ["{}"]
    cut = events(PING, reason="length")
    assert not [event for event in cut if isinstance(event, ToolCallDelta)]
    assert cut[-1] == Finished("length", 0, cut_call=True)


@pytest.mark.parametrize("name", ["other", "unknown"])
def test_a_call_that_is_not_allowed_is_text_if_there_is_nothing_else(name: str) -> None:
    dropped = CallBegun(name), CallArguments("{}")
    assert events(*dropped) == [
        TextDelta(f'{{"name":"{name}","arguments":{{}}}}', 0),
        Finished("stop", 0),
    ]
    assert events(Said("a"), *dropped) == [TextDelta("a", 0), Finished("stop", 0)]


def test_only_the_first_call_is_passed_on_where_one_was_wanted() -> None:
    got = events(PING, CallArguments("{}"), PING, CallArguments("[]"), tools=use(parallel=False))
    assert len([event for event in got if isinstance(event, ToolCallStarted)]) == 1
    assert not [e for e in got if isinstance(e, ToolCallDelta) and e.arguments == "[]"]


def test_a_free_form_tool_gets_its_input_as_it_is() -> None:
    got = events(NOTE, CallArguments('{"input": "a'), CallArguments('\\nb"}'))
    assert [event for event in got if isinstance(event, ToolCallDelta)] == [
        ToolCallDelta(0, "a\nb", 0, freeform=True)
    ]
    cut = events(NOTE, CallArguments('{"input": "a'), reason="length")
    assert [e.arguments for e in cut if isinstance(e, ToolCallDelta)] == ['{"input": "a']


def test_calls_end_with_tool_calls_and_a_named_one_with_stop() -> None:
    call = PING, CallArguments("{}")
    assert events(*call)[-1] == Finished("tool_calls", 0)
    assert events(*call, tools=use(named=True))[-1] == Finished("stop", 0)
    assert events(PING, CallArguments("{"))[-1] == Finished("stop", 0)  # not one whole call
