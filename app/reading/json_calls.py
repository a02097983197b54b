"""Calls written as JSON objects, and answers that are JSON."""

from __future__ import annotations

from collections.abc import Generator
from typing import Literal, assert_never

import orjson

from app.reading.pieces import (
    CallArguments,
    CallBegun,
    Piece,
    Said,
    joined,
    overlap,
)


class CallArray:
    """Reads `[{"name": ..., "parameters": {...}}, ...]`: the form of answers that must be calls.

    Arguments are passed on as they arrive, as JSON text.
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

    Takes linear time. SGLang's own parser of this format parses the whole call again for each piece
    of it.
    """

    def __init__(self, begin: str, end: str) -> None:
        self._begin, self._end = begin, end
        self._held = ""
        """Text that may begin a marker, or is blank next to a call."""
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
        if self._state == "text" and (held.strip() or not self._called):
            return joined([Said(held)])
        return []  # "begun": the answer was cut off before the call's name

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
                    return [Said(self._begin), *self.feed(held)]  # the marker as a word of the text
                return []
            case "call":
                assert self._call is not None
                pieces = self._call.step(character)
                if self._call.complete:
                    self._called, self._state = True, "after"
                return pieces
            case "after":
                # Up to the end marker; a list may have its next call before it.
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
        text = held[: len(held) - keep]
        return [Said(text)] if text else []


class JsonStrings:
    """Escapes control characters inside strings, which JSON forbids as they are.

    Models write them into the arguments of calls that no grammar constrains.
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


class _CallObject:
    """Reads one call's JSON object, after its opening brace."""

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
        """Takes one character at each yield."""
        early: list[Piece] = []  # arguments that come before the name
        begun = has_arguments = False
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
            elif key in ("parameters", "arguments") and not has_arguments:
                has_arguments = True
                sink = self._pieces if begun else early
                if character in "{[":
                    character = yield from self._read_value(character, sink)
                else:
                    character = yield from self._read_odd_arguments(character, sink)
            else:
                character = yield from self._read_value(character, [])

    def _read_odd_arguments(self, character: str, sink: list[Piece]) -> Generator[None, str, str]:
        """Arguments that are not an object: null, or an object's JSON inside a string."""
        if character == '"':
            text = yield from self._read_string()
            following = yield
        else:
            pieces: list[Piece] = []
            following = yield from self._read_value(character, pieces)
            text = "".join(piece.json for piece in pieces if isinstance(piece, CallArguments))
        if text != "null":
            sink.append(CallArguments(text))
        return following

    def _read_string(self) -> Generator[None, str, str]:
        """The string after its opening quote; consumes the closing one."""
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
        """Put a value that begins with `character` into `sink`; returns the character after it."""
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
                    return character  # the call's own bracket ends a bare number or word
                depth -= 1
            elif depth == 0 and character in ", \t\r\n":
                return character
            sink.append(CallArguments(strings.feed(character)))
            if depth == 0 and not quoted and character in '}]"':
                following = yield
                return following
            character = yield
