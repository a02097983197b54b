"""The name that was meant: the one hint that every message about an unknown name ends with."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_NEAR = 0.6
"""Of `difflib`: what a person may have meant, as a question."""


def nearest(name: str, known: Iterable[str], *, cutoff: float = _NEAR) -> str | None:
    """Of the known names the one that looks most like this one."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return near[0] if near else None


def hint(name: str, known: Iterable[str], shape: str = "{}") -> str:
    """`; did you mean NAME?`, or nothing. `shape`: how a name is written, such as `--{}`."""
    near = nearest(name, known)
    return "" if near is None else f"; did you mean {shape.format(near)}?"
