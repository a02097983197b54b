"""Sessions of agents: what the real programs sent in twenty turns, without their texts.

`tests/agents/test_sessions.py` records them, `tests/live/test_sessions.py` sends them to the real
engine. Each word is replaced by a word of its own, so that texts share what they shared before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import orjson

FOLDER = Path(__file__).parents[1] / "agents" / "sessions"
KEPT = ("x-anthropic-billing-header",)
"""Texts that the server itself reads."""
_KEPT_KEYS = {
    "type", "role", "name", "id", "call_id", "tool_use_id", "model", "status", "definition",
    "encrypted_content", "signature", "required", "enum", "arguments", "partial_json",
}  # fmt: skip
_WORDS = [f"{a}{b}{c}{d}" for a in "bdfgklm" for b in "aeiou" for c in "nprst" for d in "aeiou"]
_WORD = re.compile(r"<[^<>\s]*>|[A-Za-z]{3,}")
Json = dict[str, Any]


def veiled(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: veiled(member, name) for name, member in value.items()}
    if isinstance(value, list):
        return [veiled(member, key) for member in value]
    # A text; anything else of one word has a meaning.
    is_text = isinstance(value, str) and (" " in value or "\n" in value)
    if not is_text or key in _KEPT_KEYS or value.startswith(KEPT):
        return value
    return _WORD.sub(_replaced, value)


def _replaced(match: re.Match[str]) -> str:
    word = match[0]
    return word if word[0] == "<" else _WORDS[crc32(word.lower().encode()) % len(_WORDS)]


def write(name: str, path: str, bodies: list[Json]) -> None:
    """Keep a session; what a body has in common with the one before it is written once."""
    turns: list[Json] = []
    before: Json = {}
    for body in bodies:
        turn: Json = {
            "same": [key for key in body if key in before and before[key] == body[key]],
            "new": {},
        }
        for key in body.keys() - set(turn["same"]):
            old, new = before.get(key), body[key]
            shared = 0
            if isinstance(old, list) and isinstance(new, list):
                shared = next(
                    (n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b),
                    min(len(old), len(new)),
                )
                new = new[shared:]
            turn["new"][key] = [shared, new]
        turn["order"] = list(body)
        turns.append(turn)
        before = body
    FOLDER.mkdir(exist_ok=True)
    lines = [{"path": path}, *turns]
    (FOLDER / f"{name}.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)) + b"\n")


def read(name: str) -> tuple[str, list[Json]]:
    """The path that they were sent to, and the bodies."""
    first, *turns = map(orjson.loads, (FOLDER / f"{name}.jsonl").read_bytes().splitlines())
    return first["path"], list(_bodies(turns))


def _bodies(turns: list[Json]) -> Iterator[Json]:
    before: Json = {}
    for turn in turns:
        made: Json = {key: before[key] for key in turn["same"]}
        for key, (shared, new) in turn["new"].items():
            made[key] = [*before[key][:shared], *new] if shared else new
        before = {key: made[key] for key in turn["order"]}
        yield before
