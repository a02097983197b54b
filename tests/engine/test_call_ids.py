"""Ids of calls for templates that take only nine letters and digits."""

from __future__ import annotations

from app.engine.sglang.chat import with_short_ids
from app.types import Message, Text, ToolCall


def test_a_conversation_keeps_its_calls_and_results_together_by_short_ids() -> None:
    calls = tuple(ToolCall(f"call_{no:032d}", "look", "{}") for no in range(3))
    messages = [
        Message(role="user", parts=(Text("look"),)),
        Message(role="assistant", calls=calls),
        *(Message(role="tool", parts=(Text("x"),), tool_call_id=call.id) for call in calls),
    ]
    short = with_short_ids(messages)
    assert short is not None
    ids = [call.id for call in short[1].calls]
    assert len(set(ids)) == 3
    assert all(len(id) == 9 and id.isalnum() for id in ids)
    assert [message.tool_call_id for message in short[2:]] == ids
    assert with_short_ids(messages) == short
    assert short[0] == messages[0]


def test_a_conversation_without_calls_is_left_alone() -> None:
    assert with_short_ids([Message(role="user", parts=(Text("hi"),))]) is None
