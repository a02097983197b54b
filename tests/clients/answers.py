"""Answers as a model writes them (calls in Hermes' format, thinking in `<think>`), each made from a
number: the server gives the answer that the prompt asks for (`answer 17`), the test knows it, too.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from app.engine.scripted import Step
from app.errors import EngineDied, RequestAborted

Call = tuple[str, dict[str, Any]]
End = Literal["stop", "length", "failed", "refused"]

TOOLS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
    },
    "search": {"type": "object", "properties": {"query": {"type": "string"}}},
    "ping": {"type": "object", "properties": {}},
}
CUSTOM = "patch"
"""A custom tool: its one argument is a text."""

# What breaks clients that cut streams into lines or events themselves is among them.
_WORDS = (
    *("tide", "harbour", "Łódź", "日本語", "שלום", "e\u0301", "🌦️", "👩‍👩‍👧"),
    *("\u2028", "\u2029", "\u0085", "\ufeff", "\u0000", "\u001f", "\u007f", "\v", "\r", "\r\n"),
    *("\n\ndata: {}\n\n", "event: error\n", ": ping\n\n", "[DONE]", "data: [DONE]\n\n"),
    *('"', "\\", "\\u0041", "\\n", "</s>", "<tool_cal", "{", "}]", "'", "`", "&amp;", "\t"),
)

_FAILURES = (
    (EngineDied("the engine has died"), 503),
    (RequestAborted("the operator ended it"), 503),
    (RuntimeError("a fault of the program"), 500),
)


@dataclass(frozen=True)
class Answer:
    seed: int
    kind: str
    thinking: str = ""
    text: str = ""
    calls: tuple[Call, ...] = ()
    end: End = "stop"
    steps: tuple[Step, ...] = field(default=(), repr=False)
    status: int = 200
    """Of the answer to a request that is not a stream, or whose stream has not begun."""
    model: str = "scripted"
    beside: str = ""
    """What the prompt has beside the number."""

    @property
    def case(self) -> dict[str, Any]:
        """What a client program has to know to ask for it."""
        return {
            "seed": self.seed,
            "model": self.model,
            "prompt": f"answer {self.seed}{self.beside}",
            "thinks": bool(self.thinking),
            "tools": TOOLS if "call" in self.kind else {},
            "custom": CUSTOM if "custom" in self.kind else None,
        }


def answer(seed: int) -> Answer:
    chance = random.Random(seed)
    kind = chance.choice(list(_KINDS))
    made = _KINDS[kind](chance)
    return Answer(seed=seed, kind=kind, **made)


def called(name: str, arguments: dict[str, Any], *, ascii: bool = True) -> str:
    written = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=ascii)
    return f"<tool_call>\n{written}\n</tool_call>"


# -- the kinds -----------------------------------------------------------------------------------


def _text(chance: random.Random) -> dict[str, Any]:
    text = _words(chance)
    return {"text": text, "steps": _pieces(chance, text)}


def _thinking(chance: random.Random) -> dict[str, Any]:
    thinking, text = _words(chance), _words(chance)
    return {"thinking": thinking, "text": text, "steps": _pieces(chance, _thought(thinking) + text)}


def _only_thinking(chance: random.Random) -> dict[str, Any]:
    thinking = _words(chance)
    return {"thinking": thinking, "steps": _pieces(chance, _thought(thinking))}


def _one_call(chance: random.Random) -> dict[str, Any]:
    return _with_calls(chance, 1)


def _several_calls(chance: random.Random) -> dict[str, Any]:
    return _with_calls(chance, chance.randint(2, 5))


def _text_and_calls(chance: random.Random) -> dict[str, Any]:
    return _with_calls(chance, chance.randint(1, 3), text=_words(chance))


def _thinking_and_calls(chance: random.Random) -> dict[str, Any]:
    return _with_calls(chance, chance.randint(1, 3), thinking=_words(chance))


def _custom_call(chance: random.Random) -> dict[str, Any]:
    calls = [(CUSTOM, {"input": _words(chance)})]
    if chance.random() < 0.5:
        calls.append(_call(chance))
    return _written(chance, calls)


def _empty(chance: random.Random) -> dict[str, Any]:
    return {"steps": ()}


def _cut_text(chance: random.Random) -> dict[str, Any]:
    return _text(chance) | {"end": "length"}


def _cut_thinking(chance: random.Random) -> dict[str, Any]:
    thinking = _words(chance)
    return {
        "thinking": thinking,
        "end": "length",
        "steps": _pieces(chance, f"<think>\n{thinking}"),
    }


def _cut_call(chance: random.Random) -> dict[str, Any]:
    """The calls before the one that was cut off are whole."""
    whole = [_call(chance) for _ in range(chance.randint(0, 2))]
    last = called(*_call(chance))
    before = "\n".join(called(*each) for each in whole)
    begun = len("<tool_call>\n{")  # what ends before it has not begun a call: it is text
    text = before + "\n" * bool(whole) + last[: chance.randint(begun, len(last) - 13)]
    return {"calls": tuple(whole), "end": "length", "steps": _pieces(chance, text)}


def _failed_at_once(chance: random.Random) -> dict[str, Any]:
    return _failing(chance, {"steps": ()})


def _failed_in_text(chance: random.Random) -> dict[str, Any]:
    return _failing(chance, _text(chance))


def _failed_in_thinking(chance: random.Random) -> dict[str, Any]:
    return _failing(chance, _cut_thinking(chance))


def _failed_in_call(chance: random.Random) -> dict[str, Any]:
    return _failing(chance, _cut_call(chance))


def _refused(chance: random.Random) -> dict[str, Any]:
    refusals: tuple[dict[str, Any], ...] = (
        {"model": "unknown", "status": 404},
        {"beside": " and more" * 30_000, "status": 400},  # than the context holds
    )
    return {"end": "refused", "steps": ("never",), **chance.choice(refusals)}


_KINDS = {
    "text": _text,
    "thinking": _thinking,
    "only thinking": _only_thinking,
    "one call": _one_call,
    "several calls": _several_calls,
    "text and calls": _text_and_calls,
    "thinking and calls": _thinking_and_calls,
    "custom call": _custom_call,
    "empty": _empty,
    "cut text": _cut_text,
    "cut thinking": _cut_thinking,
    "cut call": _cut_call,
    "failed at once": _failed_at_once,
    "failed in text": _failed_in_text,
    "failed in thinking": _failed_in_thinking,
    "failed in call": _failed_in_call,
    "refused": _refused,
}


# -- their parts ---------------------------------------------------------------------------------


def _words(chance: random.Random) -> str:
    """It begins and ends with a letter: blanks at the ends belong to the format."""
    count = chance.choice((1, 5, 20, 20, 2000))
    return " ".join(("So", *chance.choices(_WORDS, k=count), "it is."))


def _thought(thinking: str) -> str:
    return f"<think>\n{thinking}\n</think>\n\n"


def _call(chance: random.Random) -> Call:
    name = chance.choice(list(TOOLS))
    if name == "ping":
        return name, {}
    if name == "search":
        return name, {"query": _words(chance)}
    return name, {"city": _words(chance), "days": chance.randint(-3, 10**9)}


def _with_calls(
    chance: random.Random, count: int, *, text: str = "", thinking: str = ""
) -> dict[str, Any]:
    calls = [_call(chance) for _ in range(count)]
    return _written(chance, calls, text=text, thinking=thinking)


def _written(
    chance: random.Random, calls: list[Call], *, text: str = "", thinking: str = ""
) -> dict[str, Any]:
    ascii = chance.random() < 0.5
    before = (_thought(thinking) if thinking else "") + (f"{text}\n" if text else "")
    after = "\n".join(called(*each, ascii=ascii) for each in calls)
    return {
        "thinking": thinking,
        "text": text,
        "calls": tuple(calls),
        "steps": _pieces(chance, before + after),
    }


def _failing(chance: random.Random, made: dict[str, Any]) -> dict[str, Any]:
    """The engine fails after its last piece: what came before it is sent, or held back."""
    error, status = chance.choice(_FAILURES)
    return made | {"end": "failed", "status": status, "steps": (*made["steps"], error)}


def _pieces(chance: random.Random, text: str) -> tuple[str, ...]:
    """Cut as tokens are, in larger pieces, or not at all; a few hundred at most."""
    longest = max(chance.choice((4, 30, 3000, len(text))), len(text) // 200)
    return tuple(_cut(chance, text, longest))


def _cut(chance: random.Random, text: str, longest: int) -> Iterator[str]:
    at = 0
    while at < len(text):
        to = at + chance.randint(1, longest) if longest < len(text) else len(text)
        yield text[at:to]
        at = to
