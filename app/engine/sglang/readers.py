"""Readers of tool calls and of thinking over SGLang's parsers.

Written against sglang 0.5.23:
`srt/function_call/function_call_parser.py`, `srt/parser/reasoning_parser.py`.

Most of SGLang's streaming parsers give different results for different cuttings of one text: calls,
arguments or text are lost when several pieces arrive at once, or when a marker arrives in parts
(docs/architecture.md has the list). Here each is fed one character or tag after the other
(`Cutter`), so that there is only one cutting. Parsers that are wrong even then are replaced: those
of the JSON formats by a reader of our own, the others by SGLang's parser of whole texts, which sees
a call when it is complete.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from app.logs.setup import log
from app.reading.cutter import Cutter
from app.reading.harmony import Harmony
from app.reading.json_calls import MarkedCalls
from app.reading.pieces import (
    CallArguments,
    CallBegun,
    Piece,
    Reader,
    Said,
    Thought,
    joined,
    overlap,
)


def call_parser(name: str, tools: Sequence[Any]) -> Any:
    from sglang.srt.function_call.function_call_parser import FunctionCallParser

    return FunctionCallParser(list(tools), name)


ENDED_BY_ANY_MARKER = frozenset({"gpt-oss", "beam", "inkling", "muse", "response_template"})
"""Formats of thinking that end as other parts of an answer do: SGLang, which looks for the end from
the first token on, would take a part without thinking for thinking."""


_MARKED = {
    "hermes": ("<tool_call>", "</tool_call>"),
    "qwen": ("<tool_call>", "</tool_call>"),
    "qwen25": ("<tool_call>", "</tool_call>"),
    "trinity": ("<tool_call>", "</tool_call>"),
    "interns1": ("<|action_start|> <|plugin|>", "<|action_end|>"),
}
"""Read by `MarkedCalls`: SGLang's streaming parser takes quadratic time, or loses calls after the
first. (begin marker, end marker)"""


_WAITING = {
    "llama3": (r"<\|python_tag\|>|\A\s*\{", r"\A\s*\Z", "<|python_tag|>"),
    "mistral": (r"\[TOOL_CALLS\]", "", "[TOOL_CALLS]"),
    "pythonic": (
        r"<\|python_start\|>|\[\s*[A-Za-z_][\w.]*\(",
        r"\[\s*(?:[A-Za-z_][\w.]*)?\Z",
        "<|python_start|>",
    ),
    "minimax-m2": (r"<minimax:tool_call>", "", "<minimax:tool_call>"),
    "step3": (r"<\uff5ctool_calls_begin\uff5c>", "", "<\uff5ctool_calls_begin\uff5c>"),
}
"""Read by `WaitingCalls`: SGLang's streaming parser loses text, arguments or calls under every
cutting. (pattern of a call's start, pattern of a text's end that could become one, marker)"""


def calls_reader(name: str, tools: Sequence[Any]) -> Reader:
    """The reader of calls in the format that SGLang has under this name."""
    if name == "gpt-oss":
        return Harmony(calls=True)
    if (markers := _MARKED.get(name)) is not None:
        return MarkedCalls(*markers)
    if (starts := _WAITING.get(name)) is not None:
        return WaitingCalls(name, tools, *starts)
    return SGLangCalls(name, tools)


class WaitingCalls:
    """Passes text on until a call could begin; reads the rest at the end, with SGLang's parser of
    whole texts."""

    def __init__(
        self, name: str, tools: Sequence[Any], start: str, could_start: str, marker: str
    ) -> None:
        self._name = name
        self._parser = call_parser(name, tools)
        self._start = re.compile(start)
        self._could_start = re.compile(could_start) if could_start else None
        self._marker = marker
        self._text = ""
        self._waiting = False
        self._first = True

    def feed(self, text: str) -> list[Piece]:
        self._text += text
        if self._waiting:
            return []
        if (start := self._find(self._start)) is not None:
            self._waiting = True
            return self._say(start)
        held = overlap(self._text, self._marker)
        safe = len(self._text) - held
        if self._could_start is not None and (at := self._find(self._could_start)) is not None:
            safe = min(safe, at)
        return self._say(safe)

    def finish(self) -> list[Piece]:
        text, self._text = self._text, ""
        if not self._waiting:
            return joined([Said(text)])
        beside, calls = "", []
        for block in self._blocks(text):
            block_text, block_calls = self._parser.parse_non_stream(block)
            beside += block_text
            calls += block_calls
        if not calls:
            return joined([Said(text)])
        pieces: list[Piece] = [Said(beside)] if beside.strip() else []
        for call in calls:
            pieces += [CallBegun(call.name), CallArguments(call.parameters)]
        return joined(pieces)

    def _blocks(self, text: str) -> list[str]:
        if self._name != "mistral":
            return [text]
        # Of several blocks SGLang's parser takes the last.
        before, *rest = text.split(self._marker)
        return [*filter(None, [before]), *(self._marker + block for block in rest)]

    def _find(self, pattern: re.Pattern[str]) -> int | None:
        # `\\A` means the beginning of the answer, not of its remaining text.
        match = pattern.search(self._text if self._first else "\0" + self._text)
        return None if match is None else match.start() - (not self._first)

    def _say(self, chars: int) -> list[Piece]:
        text, self._text = self._text[:chars], self._text[chars:]
        self._first = self._first and not text
        return [Said(text)] if text else []


_LUMPED = frozenset(
    {
        "deepseekv3",
        "deepseekv31",
        "deepseekv32",
        "deepseekv4",
        "deepseekv41",
        "hunyuan",
        "kimi_k3",
        "gigachat35",
    }
)
"""Formats whose parser looks at all of a call again for each piece. Text without tags comes to them
in lumps, so that a file written as an argument does not block the event loop."""
_LUMP = 64
"""Characters, counted from the last tag, so that they do not depend on how the text arrived."""


class SGLangCalls:
    """Reads calls with one of SGLang's streaming parsers, fed character by character."""

    def __init__(self, name: str, tools: Sequence[Any]) -> None:
        self._name = name
        self._parser = call_parser(name, tools)
        self._cutter = Cutter()
        self._called = self._broken = self._inside = False
        self._lump: list[str] | None = [] if name in _LUMPED else None
        # Until the first call: the text that the parser got, and the text that it gave back.
        self._fed: list[str] = []
        self._returned: list[str] = []

    def feed(self, text: str) -> list[Piece]:
        return self._steps(self._cutter.feed(text))

    def finish(self) -> list[Piece]:
        pieces = self._steps(self._cutter.finish())
        pieces += self._parsed("".join(self._lump or ()))
        if self._broken:
            return joined(pieces)
        pieces += self._pieces(*self._parser.parse_stream_end())
        if not self._called:
            # Some parsers keep a text that could have become a marker.
            fed, returned = "".join(self._fed), "".join(self._returned)
            tail = fed[len(returned) :]
            if fed.startswith(returned) and not self._parser.detector.has_tool_call(tail):
                pieces.append(Said(tail))
        return joined(pieces)

    def _steps(self, atoms: Sequence[str]) -> list[Piece]:
        pieces: list[Piece] = []
        for atom in atoms:
            if self._lump is None or not self._inside:
                self._inside = len(atom) > 1 and self._parser.detector.has_tool_call(atom)
                pieces += self._parsed(atom)
                continue
            if len(atom) == 1:
                self._lump.append(atom)
            if len(atom) > 1 or len(self._lump) == _LUMP:
                pieces += self._parsed("".join(self._lump))
                self._lump.clear()
            if len(atom) > 1:
                pieces += self._parsed(atom)
        return joined(pieces)

    def _parsed(self, text: str) -> list[Piece]:
        if self._broken or not text:
            return [Said(text)]
        if not self._called:
            self._fed.append(text)
        try:
            return self._pieces(*self._parser.parse_stream_chunk(text))
        except Exception:  # a model can write anything, and SGLang's parsers raise anything
            log.warning("a tool call parser failed", parser=self._name, exc_info=True)
            self._broken = True
            return [Said(text)]

    def _pieces(self, text: str, calls: Sequence[Any]) -> list[Piece]:
        pieces: list[Piece] = [Said(text)] if text else []
        if not self._called:
            self._returned.append(text)
        for call in calls:
            # `tool_index` counts calls in some formats and tools in others; a name begins a call.
            if call.name:
                self._called = True
                pieces.append(CallBegun(call.name))
            if call.parameters:
                pieces.append(CallArguments(call.parameters))
        return pieces


class SGLangThinking:
    """Reads thinking with one of SGLang's parsers, fed character by character."""

    def __init__(self, name: str, *, forced: bool, calls_follow: bool) -> None:
        from sglang.srt.parser.reasoning_parser import ReasoningParser

        self._parser = ReasoningParser(
            name,
            stream_reasoning=True,
            # k2_horizon's parser accepts only True.
            force_reasoning=forced or name == "k2_horizon",
            tool_call_parser_active=calls_follow,
        )
        # cohere_command4's parser leaves the opening marker in the thinking.
        self._opening = "<|START_THINKING|>" if name == "cohere_command4" else ""
        self._cutter = Cutter()
        # ling3's parser repeats thinking that was never closed as the answer.
        self._repeats = name == "ling3"
        self._thought: list[str] = []

    def feed(self, text: str) -> list[Piece]:
        return self._steps(self._cutter.feed(text))

    def finish(self) -> list[Piece]:
        pieces = self._steps(self._cutter.finish())
        thinking, text = self._parser.parse_stream_end()
        if self._repeats and text and text == "".join(self._thought):
            text = ""
        return joined([*pieces, Thought(thinking or ""), Said(text or "")])

    def _steps(self, atoms: Sequence[str]) -> list[Piece]:
        pieces: list[Piece] = []
        for atom in atoms:
            thinking, text = self._parser.parse_stream_chunk(atom)
            if self._opening and thinking:
                opening, self._opening = self._opening, ""
                if opening.startswith(thinking):
                    self._opening, thinking = opening[len(thinking) :], ""
                thinking = thinking.removeprefix(opening)
            pieces += [Thought(thinking or ""), Said(text or "")]
            if self._repeats and thinking:
                self._thought.append(thinking)
        return joined(pieces)
