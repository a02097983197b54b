"""JSON as a setting has it: every text of it is read here, so that none ends in a traceback."""

from __future__ import annotations

import json
from typing import Any

DEEPEST = 32
"""Levels: what reads the value later (redaction, pydantic, JSON again) calls itself for each."""


class TooDeep(ValueError):
    """It is JSON, as far as it was read."""


def parsed(text: str) -> Any:
    """Raises ValueError that says what is wrong, and shows nothing of the text."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise TooDeep(f"has more than {DEEPEST} levels") from None
    waiting = [(value, 1)]
    while waiting:
        inner, depth = waiting.pop()
        if isinstance(inner, dict | list):
            if depth > DEEPEST:
                raise TooDeep(f"has more than {DEEPEST} levels")
            entries = inner.values() if isinstance(inner, dict) else inner
            waiting += [(each, depth + 1) for each in entries]
    return value
