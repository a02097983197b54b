"""Grammars in tests: compiled as the engine compiles them, with a token for each byte."""

from __future__ import annotations

import json
import random
import time
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from app.grammars.compiler import compiled
from app.grammars.lowering import limits_of, lower

BYTES = LLTokenizer("byte")
_CLOSING = [ord(character) for character in '"}]']


def matcher(kind: str, grammar: Any, special: dict[str, int] | None = None) -> LLMatcher:
    """Raises Refused."""
    text = grammar if isinstance(grammar, str) else json.dumps(grammar)
    lowered, limits = limits_of(lower(kind, text, BYTES, special or {}))
    return compiled(BYTES, lowered, limits=limits)


def accepts(matcher: LLMatcher, text: str) -> bool:
    """The text is one whole answer."""
    copy, data = matcher.deep_copy(), list(text.encode())
    if copy.validate_tokens(data) != len(data):
        return False
    copy.consume_tokens(data)
    return bool(copy.is_accepting())


def allowed(matcher: LLMatcher) -> list[int]:
    """The tokens that may come next."""
    mask = int.from_bytes(matcher.compute_bitmask(), "little")
    return [token for token in range(BYTES.vocab_size) if mask >> token & 1]


def walk(matcher: LLMatcher, chance: random.Random, *, tokens: int = 300) -> str | None:
    """An answer of random tokens; None if it has not come to its end.

    After `tokens` it takes what closes strings, arrays and objects where it can.
    """
    copy, data = matcher.deep_copy(), bytearray()
    for step in range(tokens * 2):
        choices = allowed(copy)
        assert choices, f"nothing may follow {bytes(data)!r}"
        if copy.is_error():
            return None
        ends = BYTES.eos_token in choices
        if ends and (len(choices) == 1 or step > tokens or chance.random() < 0.3):
            return data.decode()
        choices = [token for token in choices if token < 256]
        closing = [token for token in _CLOSING if token in choices]
        late = closing and (step > tokens or chance.random() < 0.2)
        token = chance.choice(closing if late else choices)
        assert copy.consume_token(token)
        data.append(token)
    return None


class Clock:
    """The processor time of the slowest step."""

    def __init__(self) -> None:
        self.worst_s = 0.0

    def step(self, action: Any, *arguments: Any) -> Any:
        started = time.thread_time()
        result = action(*arguments)
        self.worst_s = max(self.worst_s, time.thread_time() - started)
        return result
