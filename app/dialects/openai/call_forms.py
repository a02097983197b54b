"""How an answer writes the tools that the model calls: as `tool_calls`, or as `function_call`.

The second is of clients that define `functions`: they know no ids, and one call an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from app.events import ToolCallDelta, ToolCallStarted
from app.types import Json, ToolCall


class CallForm(Protocol):
    finish_reason: str
    """Of an answer that calls."""

    def begun(self, event: ToolCallStarted) -> Json | None:
        """The delta that opens a call; None if it is not written."""

    def more(self, event: ToolCallDelta) -> Json | None:
        """The delta with a piece of its arguments."""

    def whole(self, calls: Sequence[ToolCall]) -> Json:
        """The calls, as a part of the message."""


class ToolCalls:
    finish_reason = "tool_calls"

    def begun(self, event: ToolCallStarted) -> Json:
        empty = {"name": event.name, "input" if event.freeform else "arguments": ""}
        begun = {"index": event.call, "id": event.id, **_typed(event.freeform, empty)}
        return {"tool_calls": [begun]}

    def more(self, event: ToolCallDelta) -> Json:
        more = (
            {"custom": {"input": event.arguments}}
            if event.freeform
            else {"function": {"arguments": event.arguments}}
        )
        return {"tool_calls": [{"index": event.call, **more}]}

    def whole(self, calls: Sequence[ToolCall]) -> Json:
        return {"tool_calls": [_call(call) for call in calls]}


class FunctionCall:
    finish_reason = "function_call"

    def begun(self, event: ToolCallStarted) -> Json | None:
        if event.call:
            return None
        return {"function_call": {"name": event.name, "arguments": ""}}

    def more(self, event: ToolCallDelta) -> Json | None:
        return None if event.call else {"function_call": {"arguments": event.arguments}}

    def whole(self, calls: Sequence[ToolCall]) -> Json:
        first = calls[0]
        return {"function_call": {"name": first.name, "arguments": first.arguments}}


TOOL_CALLS: CallForm = ToolCalls()
FUNCTION_CALL: CallForm = FunctionCall()


def _call(call: ToolCall) -> Json:
    key = "input" if call.freeform else "arguments"
    return {"id": call.id, **_typed(call.freeform, {"name": call.name, key: call.arguments})}


def _typed(freeform: bool, content: Json) -> Json:
    kind = "custom" if freeform else "function"
    return {"type": kind, kind: content}
