"""How deep and how large a JSON text is, without parsing it.

A parser creates an object for every value. This only counts bytes: no backtracking and no Python
step per byte, so it measures some hundred MB a second whatever the text is.
"""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

_NUMBERS_PER_NODE = 10
_BLANKS = b" \t\r\n"
_BRACKETS = b"[]{}"
_NOT_BRACKETS = bytes(set(range(256)) - set(_BRACKETS))
_STEPS = bytes.maketrans(_BRACKETS, b"\x01\xff\x01\xff")  # as signed bytes: +1, -1


class Shape(NamedTuple):
    """`depth`: levels of nested containers; `[[]]` has 2. `nodes`: see `shape`."""

    depth: int
    nodes: int


def shape(raw: bytes, max_nodes: int) -> Shape:
    """Measure a JSON text. Beyond `max_nodes` the result is only some number above it.

    Nodes are objects, arrays, strings (keys too), `true`, `false` and `null`. Ten numbers count as
    one node: they cost a tenth, and a prompt of token ids has a hundred thousand of them.
    Text that is not valid JSON is measured, too; no node in it is missed.
    """
    # In a run of backslashes each pair is one escaped backslash; a single one left over escapes the
    # next byte.
    text = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = (text.count(b'"') + 1) // 2
    if strings > max_nodes:
        return Shape(0, strings)
    bare = b'"'.join(text.split(b'"')[::2]).translate(None, _BLANKS)
    opened = bare.count(b"[") + bare.count(b"{")
    containers = max(opened, bare.count(b"]") + bare.count(b"}"))
    literals = bare.count(b"t") + bare.count(b"f") + bare.count(b"n")
    nodes = containers + strings + literals
    if nodes > max_nodes:
        return Shape(0, nodes)
    filled = opened - bare.count(b"[]") - bare.count(b"{}")
    values = 1 + bare.count(b",") + filled
    keys = bare.count(b":")
    numbers = max(0, values - (nodes - keys))
    brackets = memoryview(bare.translate(_STEPS, _NOT_BRACKETS)).cast("b")
    return Shape(max(accumulate(brackets), default=0), nodes + numbers // _NUMBERS_PER_NODE)
