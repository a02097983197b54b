"""Reads server-sent events, as strictly as the strictest client."""

from __future__ import annotations

import json
from typing import Any


def frames(text: str) -> list[Any]:
    """The data of every event, in order; "[DONE]" stays text. Comments are dropped."""
    assert text.endswith("\n\n")
    events: list[Any] = []
    for block in text.split("\n\n")[:-1]:
        while block.startswith(":"):  # a comment is a line, not an event
            block = block.partition("\n")[2]
        if not block:
            continue
        assert block.startswith("data: "), block
        assert "\n" not in block, block
        data = block.removeprefix("data: ")
        events.append(data if data == "[DONE]" else json.loads(data))
    return events


def text_of(events: list[Any], index: int = 0) -> str:
    """The text of one choice, of chat or of completions."""
    pieces = []
    for chunk in events:
        if chunk == "[DONE]":
            continue
        for choice in chunk.get("choices", []):
            if choice["index"] == index:
                piece = choice["delta"].get("content") if "delta" in choice else choice["text"]
                pieces.append(piece or "")
    return "".join(pieces)
