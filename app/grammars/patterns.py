"""Patterns of JSON schemas, which are ECMAScript's, in the syntax of Rust's regular expressions.

Rust has more syntax inside brackets: `[a[b]]`, `[a&&b]`, `[[:alpha:]]` are sets of sets there. And
it takes no brace that begins no count, and no character as two halves.
"""

from __future__ import annotations

import re

from app.grammars.refused import Refused

UNWRITTEN = frozenset([*range(0x08), 0x0B, *range(0x0E, 0x20), 0x7F])
"""Control characters without an escape of two characters: grammars have no other escapes, and leave
these out, DEL included."""
_LAST = 0x10FFFF
_PAIR = r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPE = r"\\(?:[pPxuU]\{[^}]*\}|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)"
_PART = re.compile(
    rf"""
    (?P<pair>{_PAIR})
    | (?P<escape>{_ESCAPE})
    | (?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])
    | (?P<count>\{{\d+(?:,\d*)?\}})
    | (?P<brace>[{{}}])
    | (?P<character>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_MEMBER = re.compile(rf"(?P<pair>{_PAIR})|(?P<escape>{_ESCAPE})|(?P<syntax>[\[&~])|.", re.DOTALL)
_HEX = re.compile(r"\\[xuU]\{?([0-9a-fA-F]+)\}?")
_ESCAPED = {"a": 0x07, "v": 0x0B, "0": 0x00, "f": 0x0C, "n": 0x0A, "r": 0x0D, "t": 0x09}
"""Letters of escapes, and the characters that they are. The other letters are classes."""
_BLANKS = r"\t\n\f\r \x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}"
_BLANKS_OF_SOME = rf"{_BLANKS}\x{{0B}}\x{{1C}}-\x{{1F}}\x{{85}}\x{{FEFF}}"
_DOT = r"[^\n\r\x{2028}\x{2029}]"
"""ECMAScript's; Rust's is all but a line feed."""
_DOT_IS_ALL = re.compile(r"\(\?[a-z]*s")


def plain_pattern(pattern: str) -> str:
    """The pattern with what is only syntax to Rust escaped.

    Raises Refused for a control character that no grammar can have written: llguidance would leave
    it out. In a set it may stand beside others.
    """
    return _PART.sub(_plain, pattern)


def plain_schema_pattern(pattern: str) -> str:
    """The same of a schema's, whose blanks and dots are ECMAScript's: what matches is valid there,
    and to validators that take the pattern for Python's or Rust's."""
    dot = "." if _DOT_IS_ALL.search(pattern) else _DOT

    def plain(part: re.Match[str]) -> str:
        if part["character"] == ".":
            return dot
        if part["escape"] in (r"\s", r"\S"):
            return f"[{_blanks(part['escape'], inverted=False)}]"
        if part["set"] is not None:
            inverted = part["set"].startswith("[^")
            return _MEMBER.sub(
                lambda member: _blanks(member[0], inverted=inverted), plain_set(part["set"])
            )
        return _plain(part)

    return _PART.sub(plain, pattern)


def _blanks(member: str, *, inverted: bool) -> str:
    """A member of a set, with `\\s` and `\\S` written out. `inverted`: the set is."""
    match member:
        case r"\s":
            return _BLANKS_OF_SOME if inverted else _BLANKS
        case r"\S":
            return f"[^{_BLANKS if inverted else _BLANKS_OF_SOME}]"
        case _:
            return member


def plain_set(text: str) -> str:
    """The same of one set, `[...]`."""
    begin = 2 if text.startswith("[^") else 1
    inner = text[begin:-1]
    first = "\\]" if inner.startswith("]") else ""
    inner = inner[1:] if first else inner
    members = [*_MEMBER.finditer(first), *_MEMBER.finditer(inner)]
    if _only_unwritten([member[0] for member in members], inverted=begin == 2):
        raise _refused()
    return text[:begin] + first + _MEMBER.sub(_plain_member, inner) + "]"


def _plain(part: re.Match[str]) -> str:
    if part["set"] is not None:
        return plain_set(part["set"])
    if part["pair"] is not None:
        return _joined(part["pair"])
    if part["count"] is None and _code(part[0]) in UNWRITTEN:
        raise _refused()
    return "\\" + part[0] if part["brace"] is not None else part[0]


def _plain_member(member: re.Match[str]) -> str:
    if member["pair"] is not None:
        return _joined(member["pair"])
    return "\\" + member[0] if member["syntax"] is not None else member[0]


def _joined(pair: str) -> str:
    high, low = int(pair[2:6], 16), int(pair[8:12], 16)
    return rf"\x{{{0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00):X}}}"


def _code(part: str) -> int | None:
    """The character that a part of a pattern is; None: a class, or no character."""
    if len(part) == 1:
        return ord(part)
    if re.fullmatch(_PAIR, part):
        return int(_joined(part)[3:-1], 16)
    if (digits := _HEX.fullmatch(part)) is not None:
        return int(digits[1], 16)
    letter = part[1]
    return _ESCAPED.get(letter) if letter.isalnum() else ord(letter)


def _only_unwritten(members: list[str], *, inverted: bool) -> bool:
    """A set has no member that can be written. `members`: characters, escapes and hyphens."""
    spans: list[tuple[int, int]] = []
    at = 0
    while at < len(members):
        is_range = members[at + 1 : at + 2] == ["-"] and at + 2 < len(members)
        low, high = _code(members[at]), _code(members[at + 2 if is_range else at])
        if low is None or high is None:  # a class, which has others
            return False
        spans.append((low, high))
        at += 3 if is_range else 1
    if inverted:
        spans = _others(spans)
    return bool(spans) and all(
        high - low < len(UNWRITTEN) and UNWRITTEN.issuperset(range(low, high + 1))
        for low, high in spans
    )


def _others(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    others, free = [], 0
    for low, high in sorted(spans):
        if low > free:
            others.append((free, low - 1))
        free = max(free, high + 1)
    return [*others, (free, _LAST)] if free <= _LAST else others


def _refused() -> Refused:
    return Refused("has a 'pattern' with a control character, which cannot be enforced")
