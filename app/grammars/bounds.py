"""How large a client's schema or grammar may be: checked before anything is made of it."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from app.errors import InvalidRequest
from app.settings.bounds import GrammarBounds


def check_schema(schema: dict[str, Any], bounds: GrammarBounds, *, param: str) -> None:
    """Raises InvalidRequest that names the bound. Iterative: depth costs no stack."""
    nodes, level, inside = 1, 0, [schema]
    while inside:  # all that is at one level
        level += 1
        if level > bounds.max_schema_depth:
            raise _beyond(f"is nested deeper than {bounds.max_schema_depth} levels", param)
        values: list[Any] = []
        for each in inside:
            if type(each) is dict:
                _check_keywords(each, bounds, param)
                values += each.values()
            else:
                values += each
        nodes += len(values)
        if nodes > bounds.max_schema_nodes:
            raise _beyond(f"has more than {bounds.max_schema_nodes} values", param)
        inside = [value for value in values if type(value) in (dict, list)]
    if _size(schema) > bounds.max_schema_bytes:
        raise _beyond(f"is larger than {bounds.max_schema_bytes} bytes", param)


def _size(schema: dict[str, Any]) -> int:
    try:
        return len(orjson.dumps(schema))
    except TypeError:  # half a surrogate pair, in a schema that came as a string
        return len(json.dumps(schema))


def _check_keywords(schema: dict[str, Any], bounds: GrammarBounds, param: str) -> None:
    if "x-lark" in schema:
        raise _beyond("has 'x-lark', which is this server's own word", param)
    if isinstance(enum := schema.get("enum"), list) and len(enum) > bounds.max_schema_enum:
        raise _beyond(f"has an enum of more than {bounds.max_schema_enum} values", param)
    if isinstance(pattern := schema.get("pattern"), str):
        check_regex(pattern, bounds, param=param)
    if isinstance(patterns := schema.get("patternProperties"), dict):
        for pattern in patterns:
            check_regex(pattern, bounds, param=param)


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
