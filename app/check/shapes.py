"""What a right answer looks like, and reading one: shapes, errors, streams of events.

A shape is a type, a tuple of values or a value; an object's shape has the keys that matter, a
list's is that of each item. What does not fit is a `Finding`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

SEEN_CHARS = 240
"""Most characters of a row's `seen`."""
_TEXT_CHARS = 60


class Finding(Exception):
    """What a row shows when its check failed, warns or was skipped."""

    def __init__(self, verdict: str, seen: str) -> None:
        super().__init__(seen)
        self.verdict = verdict


def expect(holds: object, expected: str, seen: object) -> None:
    if not holds:
        raise Finding("fail", f"expected {expected}, saw {seen}")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One that generates: what it is asked, and the shapes of its answers."""

    path: str
    body: dict[str, Any]
    whole: dict[str, Any]
    chunk: dict[str, Any]


_END = ("stop", "length")
USAGE = {"prompt_tokens": int, "completion_tokens": int, "total_tokens": int}
_QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
_ANSWER = {"role": "assistant", "content": str}
CHAT = Endpoint(
    "/v1/chat/completions",
    {"messages": _QUESTION, "max_tokens": 16},
    whole={
        "id": str,
        "object": "chat.completion",
        "usage": USAGE,
        "choices": [{"message": _ANSWER, "finish_reason": _END}],
    },
    chunk={
        "id": str,
        "object": "chat.completion.chunk",
        "choices": [{"delta": {}, "finish_reason": (None, *_END)}],
    },
)
COMPLETION = Endpoint(
    "/v1/completions",
    {"prompt": "The capital of France is", "max_tokens": 8},
    whole={
        "id": str,
        "object": "text_completion",
        "usage": USAGE,
        "choices": [{"text": str, "finish_reason": _END}],
    },
    chunk={
        "id": str,
        "object": "text_completion",
        "choices": [{"text": str, "finish_reason": (None, *_END)}],
    },
)


def fitting(shape: dict[str, Any], raw: bytes) -> Any:
    """The JSON. Raises Finding if it has another shape."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        raise Finding("fail", f"expected JSON, saw {shown(raw)}") from None
    misfit = _misfit(shape, value, "")
    expect(misfit is None, misfit or "", shown(raw))
    return value


def _misfit(shape: Any, value: Any, where: str) -> str | None:
    """What should be otherwise, as "`place` to be ..."; None if the value fits."""
    deeper: list[str | None] = []
    match shape:
        case type():
            fits, wanted = type(value) is shape, f"a {shape.__name__}"
        case tuple():
            fits, wanted = value in shape, f"one of {shape}"
        case dict():
            fits, wanted = isinstance(value, dict), "an object"
            if fits:
                deeper = [_misfit(s, value.get(key), f"{where}.{key}") for key, s in shape.items()]
        case [each]:
            fits, wanted = isinstance(value, list), "an array"
            if fits:
                deeper = [_misfit(each, item, f"{where}[{no}]") for no, item in enumerate(value)]
        case _:
            fits, wanted = value == shape, repr(shape)
    if not fits:
        return f"`{where.lstrip('.') or 'all'}` to be {wanted}"
    return next(filter(None, deeper), None)


def events(response: httpx.Response, *, deadline: float) -> Iterator[bytes]:
    """The data of each server-sent event. The deadline ends a stream that has only heartbeats."""
    rest = b""
    for piece in response.iter_bytes():
        expect(time.perf_counter() < deadline, "the stream to end in time", "it go on")
        # Cut at LF only: httpx's iter_lines cuts at U+2028 too, which JSON may hold.
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line[5:].strip() for line in lines if line.startswith(b"data:"))


def text_of(answer: dict[str, Any]) -> str:
    """The text of a whole answer or of a chunk, chat or not."""
    if not answer["choices"]:
        return ""
    choice = answer["choices"][0]
    text = choice.get("message", choice.get("delta", {})).get("content", choice.get("text"))
    expect(text is None or isinstance(text, str), "content to be a string", repr(text))
    return text or ""


def tokens_of(answer: dict[str, Any]) -> int:
    """The answer's, if `usage` adds up."""
    prompt, completion, total = (answer["usage"][name] for name in USAGE)
    expect(total == prompt + completion, f"total_tokens {prompt + completion}", total)
    return int(completion)


def refusal(raw: bytes) -> str:
    """An error's code and message, if that is what it is."""
    try:
        error = json.loads(raw)["error"]
        return f"{error['code']}: {quoted(error['message'])}"
    except (ValueError, RecursionError, LookupError, TypeError):
        return shown(raw)


def shown(raw: bytes) -> str:
    return repr(raw[:SEEN_CHARS].decode(errors="replace"))


def quoted(text: str) -> str:
    return repr(text if len(text) <= _TEXT_CHARS else text[: _TEXT_CHARS - 1] + "…")
