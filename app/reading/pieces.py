"""The pieces of a model's text: thinking, answer, calls of tools; and what reads them.

Law: any way of cutting the text gives the same pieces, concatenated. The readers keep it by
construction: each looks at one character (or one tag, see cutter.py) after the other, however the
text arrives.

    text ─ thinking reader ─┬─ Thought
                            └─ rest ─ calls reader ─┬─ Said
                                                    └─ CallBegun, CallArguments
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Protocol, TypeAlias, assert_never

import msgspec


class Said(msgspec.Struct, frozen=True, gc=False):
    """Text of the answer."""

    text: str


class Thought(msgspec.Struct, frozen=True, gc=False):
    """Text of the thinking."""

    text: str


class CallBegun(msgspec.Struct, frozen=True, gc=False):
    """A call of the tool `name`."""

    name: str


class CallArguments(msgspec.Struct, frozen=True, gc=False):
    """More of the JSON text of the current call's arguments."""

    json: str


Piece: TypeAlias = Said | Thought | CallBegun | CallArguments


class Reader(Protocol):
    """Reads one choice's text. Stateful: one object per choice."""

    def feed(self, text: str) -> list[Piece]:
        """The pieces that are certain so far; the beginning of a marker may be held back."""

    def finish(self) -> list[Piece]:
        """The pieces that were held back, now that the text is complete."""


class Chain:
    """A reader of thinking, whose remaining text goes to a reader of calls."""

    def __init__(self, thinking: Reader, calls: Reader | None) -> None:
        self._thinking, self._calls = thinking, calls

    def feed(self, text: str) -> list[Piece]:
        return self._pass_on(self._thinking.feed(text))

    def finish(self) -> list[Piece]:
        pieces = self._pass_on(self._thinking.finish())
        return pieces if self._calls is None else pieces + self._calls.finish()

    def _pass_on(self, pieces: list[Piece]) -> list[Piece]:
        if self._calls is None:
            return pieces
        passed: list[Piece] = []
        for piece in pieces:
            if isinstance(piece, Said):
                passed += self._calls.feed(piece.text)
            else:
                passed.append(piece)
        return passed


def overlap(text: str, marker: str) -> int:
    """How many of the text's last characters could begin the marker."""
    for length in range(min(len(text), len(marker) - 1), 0, -1):
        if marker.startswith(text[-length:]):
            return length
    return 0


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Neighbours of one kind as one piece; empty pieces left out."""
    result: list[Piece] = []
    for kind, group in groupby(filter(_not_empty, pieces), type):
        if kind is Said:
            result.append(Said("".join(piece.text for piece in group if isinstance(piece, Said))))
        elif kind is Thought:
            text = "".join(piece.text for piece in group if isinstance(piece, Thought))
            result.append(Thought(text))
        elif kind is CallArguments:
            json = "".join(piece.json for piece in group if isinstance(piece, CallArguments))
            result.append(CallArguments(json))
        else:
            result += group
    return result


def _not_empty(piece: Piece) -> bool:
    match piece:
        case Said(text) | Thought(text):
            return bool(text)
        case CallArguments(json):
            return bool(json)
        case CallBegun():
            return True
        case _:
            assert_never(piece)
