"""A strict client of a response's stream: whatever any of the clients that were tried enforces."""

from __future__ import annotations

from typing import Any

import orjson

Json = dict[str, Any]
_KINDS = {
    "message": "output_text",
    "reasoning": "reasoning_",
    "function_call": "function_call_arguments",
    "custom_tool_call": "custom_tool_call_input",
}
ENDS = ("response.completed", "response.incomplete", "response.failed")
_DELTAS = {
    "response.output_text.delta": "text",
    "response.reasoning_text.delta": "text",
    "response.reasoning_summary_text.delta": "text",
    "response.function_call_arguments.delta": "arguments",
    "response.custom_tool_call_input.delta": "input",
}


def events_of(frames: str) -> list[Json]:
    events = []
    for block in frames.split("\n\n")[:-1]:
        kind, data = (line for line in block.split("\n") if not line.startswith(":"))
        event = orjson.loads(data.removeprefix("data: "))
        assert kind == f"event: {event['type']}"
        events.append(event)
    return events


class Replay:
    """Takes the events one after the other, and builds the response that a client would."""

    def __init__(self, events: list[Json]) -> None:
        self.output: list[Json] = []
        self.response: Json | None = None
        self._open: Json | None = None
        self._parts: list[Json] = []
        self._collected = ""
        self._ended: list[str] = []
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert events[0]["type"] == "response.created"
        self._id = events[0]["response"]["id"]
        for event in events:
            assert self.response is None, "nothing comes after the end"
            self._take(event)
        assert self.response is not None

    def _take(self, event: Json) -> None:
        kind = event["type"]
        if "response" in event:
            self._whole(kind, event["response"])
        elif kind == "response.output_item.added":
            assert self._open is None, "one item after the other"
            assert event["output_index"] == len(self.output)
            self._open, self._parts = event["item"], []
            assert self._open["status"] == "in_progress"
        else:
            self._of_item(kind, event)

    def _whole(self, kind: str, response: Json) -> None:
        assert response["id"] == self._id
        so_far = response["output"]
        assert so_far[: len(self.output)] == self.output
        if kind in ENDS:
            self.response = response
            assert kind == f"response.{response['status']}"
            rest = so_far[len(self.output) :]
            if kind == "response.incomplete":
                assert [each["status"] for each in rest] == ["incomplete"] * (
                    self._open is not None
                )
            else:
                assert not rest
                assert self._open is None or kind == "response.failed"
        else:
            assert response["status"] == "in_progress"
            rest = so_far[len(self.output) :]
            assert len(rest) == (self._open is not None)

    def _of_item(self, kind: str, event: Json) -> None:
        item = self._open
        assert item is not None, "an event of an item that was not added"
        assert event["output_index"] == len(self.output)
        if kind == "response.output_item.done":
            done = event["item"]
            for same in ("id", "type", "call_id", "name", "namespace", "role"):
                assert done.get(same) == item.get(same)
            assert done["status"] in ("completed", "incomplete")
            self._check_done(done)
            self.output.append(done)
            self._open, self._collected, self._ended = None, "", []
            return
        assert event["item_id"] == item["id"]
        index = event.get("summary_index", event.get("content_index"))
        if kind.endswith("part.added"):
            assert index == len(self._parts)
            self._parts.append(event["part"])
            assert event["part"]["text"] == ""
        elif kind in _DELTAS:
            if _DELTAS[kind] == "text":
                assert len(self._parts) == 1, "a delta of a part that was not added"
                assert index == 0
            self._collected += event["delta"]
            assert kind.split(".")[1].startswith(_KINDS[item["type"]])
        elif kind.endswith("part.done"):
            assert event["part"]["text"] == self._collected
            self._ended.append("part")
        else:
            self._ended.append("text")
            value = next(event[key] for key in ("text", "arguments", "input") if key in event)
            assert value == self._collected, "the deltas are all of it"

    def _check_done(self, done: Json) -> None:
        parts = done.get("content") or done.get("summary") or []
        text = "".join(part["text"] for part in parts)
        whole = done.get("arguments", done.get("input", text))
        assert whole == self._collected, "what is done is what came"
        hidden = done["type"] == "reasoning" and not parts
        ends = {"message": ["text", "part"], "reasoning": ["text", "part"]}
        assert self._ended == ([] if hidden else ends.get(done["type"], ["text"]))
