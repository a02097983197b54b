"""A strict client of a message's stream: whatever any of the clients that were tried enforces."""

from __future__ import annotations

import json
from typing import Any

import orjson

Json = dict[str, Any]
_DELTAS = {"text": "text_delta", "thinking": "thinking_delta", "tool_use": "input_json_delta"}
_FIELDS = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}


def events_of(frames: str) -> list[Json]:
    events = []
    for block in frames.split("\n\n")[:-1]:
        kind, data = block.split("\n")
        event = orjson.loads(data.removeprefix("data: "))
        assert kind == f"event: {event['type']}"
        events.append(event)
    return events


def replayed(events: list[Json]) -> Json:
    """The message that a client builds of its events."""
    events = [event for event in events if event["type"] != "ping"]
    assert events[0]["type"] == "message_start"
    message = events[0]["message"]
    assert message["content"] == []
    assert message["stop_reason"] is None
    state, texts = "between", list[str]()
    for event in events[1:]:
        match event["type"]:
            case "content_block_start":
                assert state == "between"
                assert event["index"] == len(message["content"])
                message["content"].append(event["content_block"])
                texts.append("")
                state = "in"
            case "content_block_delta":
                assert state == "in"
                assert event["index"] == len(message["content"]) - 1
                block, delta = message["content"][-1], event["delta"]
                if delta["type"] == "signature_delta":
                    assert block["signature"] == "", "one signature, last"
                    block["signature"] = delta["signature"]
                else:
                    assert delta["type"] == _DELTAS[block["type"]]
                    assert not block.get("signature")
                    texts[-1] += delta[_FIELDS[delta["type"]]]
            case "content_block_stop":
                assert state == "in"
                assert event["index"] == len(message["content"]) - 1
                _close(message["content"][-1], texts[-1])
                state = "between"
            case "message_delta":
                assert state == "between"
                message |= event["delta"] | {"usage": event["usage"]}
                state = "delta"
            case "message_stop":
                assert state == "delta"
                state = "end"
            case kind:
                raise AssertionError(kind)
    assert state == "end"
    return message  # type: ignore[no-any-return]


def _close(block: Json, text: str) -> None:
    match block["type"]:
        case "text":
            block |= {"text": text, "citations": None}
        case "thinking":
            block["thinking"] = text
            assert block["signature"], "clients drop thinking without one"
        case "tool_use":
            try:
                block["input"] = json.loads(text or "{}")
            except ValueError:
                block["input"] = {}
