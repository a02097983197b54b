"""What is wrong with a value, in one line: where it came from, what it must be, what it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from app.settings.catalogue import DECLARATIONS
from app.settings.secrets import hidden, is_secret
from app.settings.spelling import hint

_MOST_CHARS = 60
_EXPECTED = {
    "int_parsing": "an integer",
    "int_parsing_size": "an integer",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "a text",
    "dict_type": "a JSON object",
    "tuple_type": "a list",
}
"""pydantic's kind of error -> what the value must be."""
_BOUND = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("above", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("below", "lt"),
}


def explained(error: ValidationError, origins: Mapping[str, str]) -> str:
    """The first wrong setting."""
    every = error.errors(include_url=False)
    field = str(every[0]["loc"][0])
    of_field = [each for each in every if each["loc"][0] == field]
    origin = origins.get(field, field)
    wanted = list(dict.fromkeys(filter(None, map(_wanted, of_field))))
    if not wanted:
        message = of_field[0]["msg"].removeprefix("Value error, ")
        return f"{origin}: {message[0].lower()}{message[1:]}"
    value = of_field[0]["input"]
    return f"{origin}: must be {' or '.join(wanted)}{_not(field, origin, value, of_field)}"


def contradiction(one: str, other: str) -> str:
    """`one` and `other`: where the two values came from."""
    return f"{one} and {other} are the same setting with different values; keep one"


def _wanted(error: Any) -> str | None:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "literal_error":
        return str(context["expected"])
    if kind in _BOUND:
        words, key = _BOUND[kind]
        return f"{words} {context[key]:,}"
    return _EXPECTED.get(kind)


def _not(field: str, origin: str, value: object, errors: list[Any]) -> str:
    """`, not VALUE`, with the nearest of the words that are accepted."""
    declared = DECLARATIONS[field]
    if declared.is_secret or is_secret(origin) or not isinstance(value, str | int | float):
        return ""
    text = hidden(str(value))
    shown = f", not {text[:_MOST_CHARS]!r}" if isinstance(value, str) else f", not {text}"
    words = [
        word.strip("'")
        for each in errors
        if each["type"] == "literal_error"
        for word in str(each["ctx"]["expected"]).replace(" or ", ", ").split(", ")
    ]
    return shown + hint(str(value).lower(), words)
