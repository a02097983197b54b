"""Calls written as JSON objects, and answers that are JSON."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Literal, assert_never

import orjson

from app.reading.pieces import (
    CallArguments,
    CallBegun,
    Piece,
    Reader,
    Said,
    joined,
    overlap,
)
from app.types import Grammar


class CallArray:
    """Reads `[{"name": ..., "parameters": {...}}, ...]`: what the grammar of a required call gives.

    The arguments are passed on as they come, as the JSON text that they are.
    """

    def __init__(self) -> None:
        self._call: _CallObject | None = None

    def feed(self, text: str) -> list[Piece]:
        pieces: list[Piece] = []
        for character in text:
            if self._call is not None:
                pieces += self._call.step(character)
                if self._call.complete:
                    self._call = None
            elif character == "{":
                self._call = _CallObject()
        return joined(pieces)

    def finish(self) -> list[Piece]:
        return []


class MarkedCalls:
    """Reads `{"name": ..., "arguments": {...}}` between two markers, as Hermes and Qwen write it.

    Linear in the text, where SGLang's own parser of this format parses all of a call again for
    every piece of it.
    """

    def __init__(self, begin: str, end: str) -> None:
        self._begin, self._end = begin, end
        self._held = ""
        """Text that may be the beginning of a marker, or is blank next to a call."""
        self._call: _CallObject | None = None
        self._state: Literal["text", "begun", "call", "after"] = "text"
        self._called = False

    def feed(self, text: str) -> list[Piece]:
        pieces: list[Piece] = []
        for character in text:
            pieces += self._step(character)
        return joined(pieces)

    def finish(self) -> list[Piece]:
        held, self._held = self._held, ""
        match self._state:
            case "begun":
                return [Said(self._begin + held)]
            case "text" if held.strip() or not self._called:
                return joined([Said(held)])
        return []

    def _step(self, character: str) -> list[Piece]:
        match self._state:
            case "text":
                return self._look(character)
            case "begun":
                self._held += character
                if character == "{":
                    self._call, self._state, self._held = _CallObject(), "call", ""
                elif not character.isspace() and character != "[":
                    held, self._held, self._state = self._held, "", "text"
                    return [Said(self._begin), *self.feed(held)]  # only spoken of
                return []
            case "call":
                assert self._call is not None
                pieces = self._call.step(character)
                if self._call.complete:
                    self._called, self._state = True, "after"
                return pieces
            case "after":
                # Up to the end marker; a list has its next call before it.
                self._held = (self._held + character)[-len(self._end) :]
                if character == "{":
                    self._call, self._state, self._held = _CallObject(), "call", ""
                elif self._held == self._end:
                    self._state, self._held = "text", ""
                return []
            case _:
                assert_never(self._state)

    def _look(self, character: str) -> list[Piece]:
        held = self._held + character
        if held.endswith(self._begin):
            self._held, self._state = "", "begun"
            before = held[: -len(self._begin)]
            return joined([Said(before)]) if before.strip() or not self._called else []
        keep = overlap(held, self._begin)
        if self._called and not held.strip():
            keep = len(held)  # blank after a call: part of the answer only if text follows
        elif self._called and keep < len(held) and not held[: len(held) - keep].strip():
            keep = len(held)
        self._held = held[len(held) - keep :]
        said = held[: len(held) - keep]
        return [Said(said)] if said else []


class JsonStrings:
    """Escapes control characters that stand in strings as they are, which JSON forbids.

    xgrammar 0.2.7 lets them into strings that have a minLength or maxLength.
    """

    def __init__(self) -> None:
        self._quoted = self._escaped = False

    def feed(self, text: str) -> str:
        written: list[str] = []
        for character in text:
            if not self._quoted:
                self._quoted = character == '"'
            elif self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = True
            elif character == '"':
                self._quoted = False
            elif character < " ":
                character = orjson.dumps(character).decode()[1:-1]
            written.append(character)
        return "".join(written)


class JsonAnswer:
    """Reads an answer that is JSON, beside what another reader finds in it."""

    def __init__(self, inner: Reader | None) -> None:
        self._inner = inner
        self._strings = JsonStrings()

    def feed(self, text: str) -> list[Piece]:
        return self._written([Said(text)] if self._inner is None else self._inner.feed(text))

    def finish(self) -> list[Piece]:
        return [] if self._inner is None else self._written(self._inner.finish())

    def _written(self, pieces: list[Piece]) -> list[Piece]:
        return [
            Said(self._strings.feed(piece.text)) if isinstance(piece, Said) else piece
            for piece in pieces
        ]


def answer_reader(grammar: Grammar | None) -> Callable[[], Reader | None] | None:
    """What makes the reader of an answer without tools and thinking; None: it is plain text."""
    if grammar is None or grammar.kind != "json_schema":
        return None
    return lambda: JsonAnswer(None)


class _CallObject:
    """One call's JSON object, after its opening brace."""

    def __init__(self) -> None:
        self.complete = False
        self._pieces: list[Piece] = []
        self._scan = self._read()
        next(self._scan)

    def step(self, character: str) -> list[Piece]:
        try:
            self._scan.send(character)
        except StopIteration:
            self.complete = True
        pieces = self._pieces.copy()
        self._pieces.clear()
        return pieces

    def _read(self) -> Generator[None, str, None]:
        """One character at each yield."""
        early: list[Piece] = []  # arguments that come before the name
        begun = given = False
        character = yield
        while character != "}":
            if character != '"':
                character = yield
                continue
            key = yield from self._read_string()
            character = yield from self._skip(" \t\r\n:")
            if key == "name" and character == '"' and not begun:
                name = yield from self._read_string()
                self._pieces += [CallBegun(name), *early]
                begun = True
                character = yield
            elif key in ("parameters", "arguments") and not given:
                given = True
                sink = self._pieces if begun else early
                if character in "{[":
                    character = yield from self._read_value(character, sink)
                else:
                    character = yield from self._read_odd_arguments(character, sink)
            else:
                character = yield from self._read_value(character, [])

    def _read_odd_arguments(self, character: str, sink: list[Piece]) -> Generator[None, str, str]:
        """Arguments that are no object: null, or an object's JSON inside a string."""
        if character == '"':
            text = yield from self._read_string()
            following = yield
        else:
            found: list[Piece] = []
            following = yield from self._read_value(character, found)
            text = "".join(piece.json for piece in found if isinstance(piece, CallArguments))
        if text != "null":
            sink.append(CallArguments(text))
        return following

    def _read_string(self) -> Generator[None, str, str]:
        """After the opening quote, up to and with the closing one."""
        raw: list[str] = []
        escaped = False
        while True:
            character = yield
            if character == '"' and not escaped:
                break
            raw.append(character)
            escaped = character == "\\" and not escaped
        text = "".join(raw)
        try:
            return str(orjson.loads(f'"{text}"'))
        except orjson.JSONDecodeError:
            return text

    def _skip(self, skipped: str) -> Generator[None, str, str]:
        while True:
            character = yield
            if character not in skipped:
                return character

    def _read_value(self, character: str, sink: list[Piece]) -> Generator[None, str, str]:
        """A value that begins with `character`; returns what comes after it."""
        depth = 0
        quoted = escaped = False
        strings = JsonStrings()
        while True:
            if quoted:
                quoted = character != '"' or escaped
                escaped = character == "\\" and not escaped
            elif character == '"':
                quoted = True
            elif character in "{[":
                depth += 1
            elif character in "}]":
                if depth == 0:
                    return character  # of the call's own object: a bare number or word ended
                depth -= 1
            elif depth == 0 and character in ", \t\r\n":
                return character
            sink.append(CallArguments(strings.feed(character)))
            if depth == 0 and not quoted and character in '}]"':
                following = yield
                return following
            character = yield
