"""How large a client's schema or grammar may be: checked before anything is made of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from app.errors import InvalidRequest
from app.settings.bounds import GrammarBounds


def check_schema(schema: dict[str, Any], bounds: GrammarBounds, *, param: str) -> None:
    """Raises InvalidRequest that names the bound. Iterative: depth costs no stack."""
    for nodes, (value, depth) in enumerate(_walk(schema), start=1):
        if depth > bounds.max_schema_depth:
            raise _beyond(f"is nested deeper than {bounds.max_schema_depth} levels", param)
        if nodes > bounds.max_schema_nodes:
            raise _beyond(f"has more than {bounds.max_schema_nodes} values", param)
        if isinstance(value, dict):
            if "x-lark" in value:
                raise _beyond("has 'x-lark', which is this server's own word", param)
            if isinstance(value.get("enum"), list) and len(value["enum"]) > bounds.max_schema_enum:
                raise _beyond(f"has an enum of more than {bounds.max_schema_enum} values", param)
            if isinstance(value.get("pattern"), str):
                check_regex(value["pattern"], bounds, param=param)
    size = len(json.dumps(schema, ensure_ascii=False).encode(errors="replace"))
    if size > bounds.max_schema_bytes:
        raise _beyond(f"is larger than {bounds.max_schema_bytes} bytes", param)


def check_regex(pattern: str, bounds: GrammarBounds, *, param: str) -> None:
    if "\0" in pattern:
        raise _beyond("holds a NUL character", param)
    if len(pattern) > bounds.max_regex_chars:
        raise _beyond(f"has a pattern of more than {bounds.max_regex_chars} characters", param)
    for repeat in re.findall(r"\{([\d\s,]+)", pattern):
        for number in re.findall(r"\d+", repeat):
            if len(number) > 6 or int(number) > bounds.max_regex_repeat:
                raise _beyond(f"repeats something more than {bounds.max_regex_repeat} times", param)


def check_text(text: str, bounds: GrammarBounds, *, param: str) -> None:
    """A grammar that is text: EBNF."""
    if "\0" in text:
        raise _beyond("holds a NUL character", param)
    if len(text) > bounds.max_schema_bytes:
        raise _beyond(f"is larger than {bounds.max_schema_bytes} characters", param)


def _beyond(bound: str, param: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid value for '{param}': it {bound}.", param=param)


def _walk(schema: Any) -> Iterator[tuple[Any, int]]:
    """Every value of the schema with its depth, the schema's own being 1."""
    stack = [(schema, 1)]
    while stack:
        value, depth = stack.pop()
        yield value, depth
        if isinstance(value, dict):
            stack += [(child, depth + 1) for child in value.values()]
        elif isinstance(value, list):
            stack += [(child, depth + 1) for child in value]
