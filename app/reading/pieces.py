"""What a model writes, taken apart: thinking, text, calls of tools.

Law: any way of cutting the text gives the same pieces, concatenated. The readers keep it by
construction: each looks at one character after the other (or one tag after the other: `Cutter`),
whatever came together.

    text ─ thinking reader ─┬─ Thought
                            └─ rest ─ calls reader ─┬─ Said
                                                    └─ CallBegun, CallArguments
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Sequence
from itertools import groupby
from typing import Literal, Protocol, TypeAlias, assert_never

import msgspec
import orjson

from app.types import Grammar


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
        """What is certain so far; may hold back what could be the beginning of a marker."""

    def finish(self) -> list[Piece]:
        """What was held back, now that nothing follows."""


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


class Cutter:
    """Cuts text into single characters, but leaves tags such as `<|end|>` and `<tool_call>` whole.

    Models write most of their markers as one token each, and some parsers of SGLang's know them
    only if they come so.
    """

    _TAG = re.compile(r"<[^<>\s]{1,64}>")
    _BEGUN = re.compile(r"<[^<>\s]{0,64}")

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> list[str]:
        text, self._held = self._held + text, ""
        atoms: list[str] = []
        at = 0
        while at < len(text):
            if text[at] == "<":
                if (tag := self._TAG.match(text, at)) is not None:
                    atoms.append(tag[0])
                    at = tag.end()
                    continue
                if self._BEGUN.fullmatch(text, at):
                    self._held = text[at:]
                    break
            atoms.append(text[at])
            at += 1
        return atoms

    def finish(self) -> list[str]:
        held, self._held = self._held, ""
        return list(held)


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


class Harmony:
    """Reads the channels of gpt-oss: thinking, calls and answer.

    Source: https://cookbook.openai.com/articles/openai-harmony, read 2026-11. A message is a header
    up to `<|message|>` and a body up to the next marker; the header names the channel (analysis,
    commentary, final) and, of a call, `to=functions.NAME`, on either side of the channel.
    """

    _ENDS = frozenset({"<|end|>", "<|call|>", "<|return|>", "<|start|>", "<|channel|>"})
    _RECIPIENT = re.compile(r"to=functions\.([\w-]+)")
    _CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")

    def __init__(self, *, calls: bool) -> None:
        """`calls`: tools may be called; if not, what is written to one is part of the answer."""
        self._calls = calls
        self._cutter = Cutter()
        self._header = ""
        self._make: Callable[[str], Piece] | None = None
        """What the body's text is; None in a header."""
        self._plain = True
        """Nothing but text so far: there may be no channels at all."""

    def feed(self, text: str) -> list[Piece]:
        return self._steps(self._cutter.feed(text))

    def finish(self) -> list[Piece]:
        return self._steps(self._cutter.finish())

    def _steps(self, atoms: Sequence[str]) -> list[Piece]:
        pieces: list[Piece] = []
        for atom in atoms:
            pieces += self._step(atom)
        return joined(pieces)

    def _step(self, atom: str) -> list[Piece]:
        if atom in self._ENDS:
            # `<|start|>assistant to=functions.x<|channel|>commentary` is one header.
            in_header = self._make is None and not self._plain and atom == "<|channel|>"
            self._header = self._header + atom if in_header else atom
            self._plain, self._make = False, None
            return []
        if self._make is not None:
            return [self._make(atom)]
        if self._plain:
            return [Said(atom)]
        if atom != "<|message|>":
            self._header += atom
            return []
        return self._begin_body()

    def _begin_body(self) -> list[Piece]:
        recipient, channel = self._RECIPIENT.search(self._header), self._channel()
        if recipient is not None and self._calls:
            self._make = CallArguments
            return [CallBegun(recipient[1])]
        self._make = Thought if channel == "analysis" else Said
        return []

    def _channel(self) -> str:
        found = self._CHANNEL.search(self._header)
        return found[1] if found else ""


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


def overlap(text: str, marker: str) -> int:
    """How many of the text's last characters could be the marker's first."""
    for length in range(min(len(text), len(marker) - 1), 0, -1):
        if marker.startswith(text[-length:]):
            return length
    return 0


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Neighbours of a kind as one; empty ones left out."""
    result: list[Piece] = []
    for kind, group in groupby(filter(_says_something, pieces), type):
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


def _says_something(piece: Piece) -> bool:
    match piece:
        case Said(text) | Thought(text):
            return bool(text)
        case CallArguments(json):
            return bool(json)
        case CallBegun():
            return True
        case _:
            assert_never(piece)
