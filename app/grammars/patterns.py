"""Patterns of JSON schemas, which are ECMAScript's, in the syntax of Rust's regular expressions.

Rust has more syntax inside brackets: `[a[b]]`, `[a&&b]`, `[[:alpha:]]` are sets of sets there. And
it takes no brace that begins no count.
"""

from __future__ import annotations

import re

from app.grammars.refused import Refused

_PART = re.compile(
    r"""
    (?P<escape>\\(?:[pPxu]\{[^}]*\}|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.))
    | (?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])
    | (?P<count>\{\d+(?:,\d*)?\})
    | (?P<brace>[{}])
    | (?P<control>[\x00-\x07\x0b\x0e-\x1f\x7f])
    """,
    re.VERBOSE | re.DOTALL,
)
_SYNTAX = re.compile(r"\\.|[\[&~]", re.DOTALL)


_CONTROL = re.compile(r"\\(?:x|u00|[xu]\{0*)(?:0[0-7bBeEfF]|1[0-9a-fA-F]|7[fF]|[0-7bBeEfF]\})")


def plain_pattern(pattern: str) -> str:
    """The pattern with what is only syntax to Rust escaped.

    Raises Refused for a control character that no grammar can have written: llguidance would leave
    it out. In a set it may stand beside others.
    """
    return _PART.sub(_plain, pattern)


def plain_set(text: str) -> str:
    """The same of one set, `[...]`."""
    begin = 2 if text.startswith("[^") else 1
    inner = text[begin:-1]
    first = "\\]" if inner.startswith("]") else ""
    inner = inner[1:] if first else inner
    return text[:begin] + first + _SYNTAX.sub(_escaped, inner) + "]"


def _escaped(part: re.Match[str]) -> str:
    return part[0] if len(part[0]) > 1 else "\\" + part[0]


def _plain(part: re.Match[str]) -> str:
    if part["set"] is not None:
        return plain_set(part["set"])
    if part["control"] is not None or _CONTROL.match(part[0]):
        raise Refused("has a 'pattern' with a control character, which cannot be enforced")
    return "\\" + part[0] if part["brace"] is not None else part[0]
