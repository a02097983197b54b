"""Pieces, the chain of readers, and the one cutting of a text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.reading.cutter import Cutter
from app.reading.json_calls import MarkedCalls
from app.reading.pieces import (
    CallArguments,
    CallBegun,
    Chain,
    Piece,
    Said,
    Thought,
    joined,
    overlap,
)
from tests.support.reading import cuttings, read


def atoms(parts: list[str]) -> list[str]:
    cutter = Cutter()
    return [*(atom for part in parts for atom in cutter.feed(part)), *cutter.finish()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a<b>c", ["a", "<b>", "c"]),
        ("<|end|>", ["<|end|>"]),
        ("1 < 2", ["1", " ", "<", " ", "2"]),
        ("<<a>", ["<", "<a>"]),
        ("</", ["<", "/"]),
        ("<" + "a" * 65 + ">", ["<", *"a" * 65, ">"]),
    ],
)
def test_tags_stay_whole_and_all_else_is_characters(text: str, expected: list[str]) -> None:
    assert atoms([text]) == expected


@given(st.text("<>|/ab \n", max_size=30), st.data())
def test_any_cutting_of_the_text_gives_the_same_atoms(text: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text)))
    assert atoms([text[:at], text[at:]]) == atoms([text])
    assert "".join(atoms([text])) == text


def test_neighbours_of_a_kind_are_joined_and_calls_are_not() -> None:
    pieces: list[Piece] = [
        Said("a"), Said(""), Said("b"), Thought("c"), CallBegun("x"), CallBegun("y"),
        CallArguments("{"), CallArguments("}"), Thought(""),
    ]  # fmt: skip
    assert joined(pieces) == [
        Said("ab"), Thought("c"), CallBegun("x"), CallBegun("y"), CallArguments("{}"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "chars"), [("ab<to", 3), ("ab", 0), ("<tool", 5), ("<tool>", 0), ("", 0), ("<<", 1)]
)
def test_the_overlap_is_what_could_begin_the_marker(text: str, chars: int) -> None:
    assert overlap(text, "<tool>") == chars


class Bracketed:
    """Text in square brackets is thinking."""

    def __init__(self) -> None:
        self._inside = False

    def feed(self, text: str) -> list[Piece]:
        pieces: list[Piece] = []
        for character in text:
            if character in "[]":
                self._inside = character == "["
            else:
                pieces.append(Thought(character) if self._inside else Said(character))
        return pieces

    def finish(self) -> list[Piece]:
        return [Said(".")]


def test_what_is_not_thinking_goes_to_the_reader_of_calls() -> None:
    text = 'a[b]<t>{"name": "x", "arguments": {}}</t>c'
    for parts in cuttings(text):
        chain = Chain(Bracketed(), MarkedCalls("<t>", "</t>"))
        assert read(chain, parts) == [
            Said("a"), Thought("b"), CallBegun("x"), CallArguments("{}"), Said("c."),
        ]  # fmt: skip
    assert read(Chain(Bracketed(), None), ["a[b]"]) == [Said("a"), Thought("b"), Said(".")]
