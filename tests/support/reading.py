"""Reading a text with a reader, and every way of cutting it."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence

from app.reading.pieces import CallArguments, CallBegun, Piece, Reader, Said, Thought, joined


def read(reader: Reader, parts: Sequence[str]) -> list[Piece]:
    pieces: list[Piece] = []
    for part in parts:
        pieces += reader.feed(part)
    return joined([*pieces, *reader.finish()])


def cuttings(text: str) -> Iterator[Sequence[str]]:
    """Every cut in two, characters, words, equal parts, and some cuts by chance."""
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


def calls_in(pieces: Sequence[Piece]) -> list[tuple[str, object]]:
    """Name and arguments of each call."""
    calls: list[tuple[str, str]] = []
    for piece in pieces:
        if isinstance(piece, CallBegun):
            calls.append((piece.name, ""))
        elif isinstance(piece, CallArguments):
            calls[-1] = (calls[-1][0], calls[-1][1] + piece.json)
    return [(name, json.loads(arguments or "{}")) for name, arguments in calls]


def text_in(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, Said))


def thinking_in(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, Thought))
