"""From a request's grammar to the one form that the engine gets: llguidance's own, as text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast

from llguidance import LLMatcher, LLTokenizer
from llguidance.gbnf_to_lark import any_to_lark

from app.grammars import lark
from app.grammars.compiler import LIMITS, LIMITS_OF_TEXT, compiled
from app.grammars.keywords import BEST_EFFORT
from app.grammars.refused import Refused
from app.grammars.schema import enforceable, places
from app.types import Json

_MOST_CHARS = 2**21
"""Of the engine's form, which the engine keeps a thousand of."""
_WRITTEN = ("ebnf", "lark")
"""Kinds whose rules the client writes itself."""


def lower(kind: str, text: str, tokenizer: LLTokenizer, special: Mapping[str, int]) -> str:
    """The grammar as the engine compiles it. Compiles it once. Raises Refused.

    `special`: text of each special token -> its id.
    """
    try:
        return _lower(kind, text, tokenizer, special, without_patterns=False)
    except Refused as refused:
        if f'"{BEST_EFFORT}"' in text:
            with suppress(Refused):
                return _lower(kind, text, tokenizer, special, without_patterns=True)
        if kind == "json_schema":
            raise Refused(_with_place(str(refused), json.loads(text))) from None
        raise


def _lower(
    kind: str,
    text: str,
    tokenizer: LLTokenizer,
    special: Mapping[str, int],
    *,
    without_patterns: bool,
) -> str:
    grammar = _lowered(kind, text, special, without_patterns)
    if len(grammar) > _MOST_CHARS:
        raise Refused("is too complex")
    written = kind in _WRITTEN or (kind == "structural_tag" and f'"{lark.RULES}"' in text)
    compiled(tokenizer, grammar, limits=LIMITS_OF_TEXT if written else LIMITS)
    return ("w" if written else "j") + grammar


def limits_of(lowered: str) -> tuple[str, Any]:
    """Grammar and limits of what `lower` has returned."""
    return lowered[1:], LIMITS_OF_TEXT if lowered[0] == "w" else LIMITS


def _lowered(kind: str, text: str, special: Mapping[str, int], without_patterns: bool) -> str:
    match kind:
        case "json_schema":
            return LLMatcher.grammar_from_json_schema(
                json.dumps(enforceable(json.loads(text), without_patterns=without_patterns)),
                overrides=cast("Any", lark.JSON_OPTIONS),
            )
        case "regex":
            return f"start: {lark.regex(text)}"
        case "choice":
            return lark.choice(json.loads(text))
        case "structural_tag":
            format = _format(json.loads(text))
            return lark.structural_tag(format, special, without_patterns=without_patterns)
        case "lark":
            return _safe(text)
        case "ebnf":
            return _safe(_as_lark(text))
        case _:
            raise ValueError(kind)


_UNICODE = re.compile(r"\\\\|\\u([0-9a-fA-F]{4})")


def _as_lark(text: str) -> str:
    """A grammar in GBNF, as llama.cpp and xgrammar have it; one in Lark stays as it is."""
    # Written out: the conversion takes the leading zeros away.
    plain = _UNICODE.sub(
        lambda found: chr(int(found[1], 16)) if found[1] and int(found[1], 16) > 127 else found[0],
        text,
    )
    try:
        return str(any_to_lark(plain)).replace("%llguidance {}", "", 1)
    except Exception:  # it raises what its parser happens to raise
        raise Refused("is no grammar that can be read") from None


def _format(tag: Json) -> Json:
    format = tag.get("format")
    if not isinstance(format, dict):
        raise Refused("has no 'format'")
    return format


_FOREIGN = re.compile(r"%\s*(?!ignore\b|import\b)\w+|<[^>\s]*>")


def _safe(text: str) -> str:
    """Rules of a client: without llguidance's own directives, and without special tokens."""
    outside = re.sub(r'"(?:\\.|[^"\\\n])*"|/(?:\\.|[^/\\\n])+/|//[^\n]*|#[^\n]*', '""', text)
    if (found := _FOREIGN.search(outside)) is not None:
        raise Refused(f"has '{found[0][:40]}', which is not supported")
    return text


def _with_place(reason: str, schema: Json) -> str:
    """The reason with the first place of the keyword that it names."""
    named = re.search(r"'(\$?\w+)'", reason)
    if named is None or " at #" in reason:
        return reason
    for place, node in places(schema):
        if named[1] in node:
            return f"{reason} (at {place})"
    return reason
