"""Pieces of an answer as events: ids and order of calls, and the finish reason for the client."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import assert_never

import orjson

from app.events import (
    EndReason,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
)
from app.logs.setup import log
from app.reading.pieces import CallArguments, CallBegun, Piece, Reader, Said, Thought
from app.types import ToolUse


class Interpreter:
    """One choice's text as events, up to its finish reason."""

    def __init__(self, index: int, reader: Reader | None, use: ToolUse | None) -> None:
        self._index = index
        self._reader = reader
        self._use = use
        self._freeform = {tool.name for tool in use.tools if tool.freeform} if use else set()
        self._arguments: list[list[str]] = []
        """JSON text of every call so far."""
        self._open: CallBegun | None = None
        """The call that the next arguments belong to; None: the arguments are dropped."""
        self._dropped: list[str] | None = None
        """Name and arguments of the last call that was not allowed."""
        self._has_text = False
        self._blank: list[str] | None = [] if use is not None else None
        """Blank text before the answer or after a call: part of the answer only if text follows.
        None: text that is not blank has come since."""

    def text(self, text: str) -> list[Event]:
        if self._reader is None:
            return [TextDelta(text, self._index)]
        return self._events(self._reader.feed(text))

    def end(self, reason: EndReason, matched: str | int | None) -> list[Event]:
        events: list[Event] = []
        cut = False
        if self._reader is not None:
            events = self._events(self._reader.finish())
            cut = self._open is not None and self._is_cut(reason, matched)
            events += self._close_call(whole=not cut and reason == "stop")
            if not self._arguments and (text := self._fallback()):
                events.append(TextDelta(text, self._index))
        return [*events, Finished(self._reason(reason), self._index, matched, cut)]

    def _events(self, pieces: Sequence[Piece]) -> list[Event]:
        events: list[Event] = []
        for piece in pieces:
            match piece:
                case Said(text):
                    events += self._say(text)
                case Thought(text):
                    events += [*self._close_call(), ReasoningDelta(text, self._index)]
                case CallBegun():
                    events += self._begin_call(piece)
                case CallArguments(json):
                    events += self._continue_call(json)
                case _:
                    assert_never(piece)
        return events

    def _fallback(self) -> str:
        """The text of an answer that would be empty: its blanks, or a call that was not allowed."""
        if self._dropped is not None and not self._has_text:
            name, arguments = self._dropped
            try:
                value = orjson.loads(arguments or "{}")
            except orjson.JSONDecodeError:  # it was cut off
                value = arguments
            return orjson.dumps({"name": name, "arguments": value}).decode()
        return "".join(self._blank or ())

    def _say(self, text: str) -> list[Event]:
        if self._blank is not None:
            self._blank.append(text)
            if text.isspace():
                return []
            text, self._blank, self._has_text = "".join(self._blank), None, True
        return [*self._close_call(), TextDelta(text, self._index)]

    def _begin_call(self, call: CallBegun) -> list[Event]:
        events = self._close_call()
        self._blank = []
        if self._use is not None and call.name not in self._use.allowed:
            # An unknown tool, or one that the client has not allowed.
            log.warning("a call of a tool that may not be called", allowed=len(self._use.allowed))
            self._dropped = [call.name, ""]
            return events
        if self._arguments and self._use is not None and not self._use.parallel:
            return events  # the client wants one call; the model writes more
        self._open = call
        self._arguments.append([])
        id = f"call_{uuid.uuid4().hex[:24]}"
        freeform = call.name in self._freeform
        started = ToolCallStarted(len(self._arguments) - 1, id, call.name, self._index, freeform)
        return [*events, started]

    def _continue_call(self, json: str) -> list[Event]:
        if self._open is None:
            if self._dropped is not None:
                self._dropped[1] += json
            return []
        self._arguments[-1].append(json)
        if self._open.name in self._freeform:
            return []  # its input is unwrapped when the call is complete
        return [ToolCallDelta(len(self._arguments) - 1, json, self._index)]

    def _close_call(self, *, whole: bool = True) -> list[Event]:
        """`whole`: the model ended the call; False: it was cut off."""
        call, self._open = self._open, None
        if call is None:
            return []
        arguments, ordinal = self._arguments[-1], len(self._arguments) - 1
        if not arguments and whole:
            arguments.append("{}")  # some formats write nothing for a call without arguments
            if call.name not in self._freeform:
                return [ToolCallDelta(ordinal, "{}", self._index)]
        if call.name in self._freeform and (text := _input_of("".join(arguments))):
            return [ToolCallDelta(ordinal, text, self._index, freeform=True)]
        return []

    def _is_cut(self, reason: EndReason, matched: str | int | None) -> bool:
        """The last call's arguments are not an object that has ended. A stop string may have been
        the client's, which knows nothing of calls, or the format's, after all of them."""
        text = "".join(self._arguments[-1]).strip()
        if reason == "stop" and (not isinstance(matched, str) or not text):
            return False
        return not (text.startswith("{") and _is_json(text))

    def _reason(self, reason: EndReason) -> FinishReason:
        if reason != "stop" or not any(_is_json("".join(each)) for each in self._arguments):
            return reason
        named = self._use is not None and self._use.named
        return "stop" if named else "tool_calls"


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _input_of(arguments: str) -> str:
    """The input of a free-form tool; the JSON text itself if it was cut off before its end."""
    try:
        value = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments
    text = value.get("input") if isinstance(value, dict) else None
    return text if isinstance(text, str) else arguments
