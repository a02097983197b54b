"""Errors in OpenAI's format: the envelope, and the message for each kind of wrong field.

Source: https://platform.openai.com/docs/guides/error-codes, read 2026-11.
"""

from __future__ import annotations

import re

from pydantic import ValidationError

from app.errors import InvalidRequest, ServeError, UnsupportedParameter
from app.types import Json


def error_json(error: ServeError, request_id: str = "") -> Json:
    """OpenAI's error object: always these four keys. The request's id is only in a header."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }


_FIELD = re.compile(r"[a-z][a-z0-9_]{0,39}")
_EXPECTED = {
    "int": "an integer",
    "float": "a number",
    "string": "a string",
    "bool": "a boolean",
    "list": "an array",
    "tuple": "an array",
    "dict": "an object",
    "model": "an object",
}
"""pydantic's kind of error, without its suffix -> the type that the field must have."""
_BOUND = {
    "greater_than_equal": ("below_min_value", "at least", "ge"),
    "greater_than": ("below_min_value", "greater than", "gt"),
    "less_than_equal": ("above_max_value", "at most", "le"),
    "less_than": ("above_max_value", "less than", "lt"),
}
"""pydantic's kind of error -> the code without the number's type, words, name of the bound."""
_LENGTH = {
    "string_too_short": ("string_below_min_length", "at least {} characters", "min_length"),
    "string_too_long": ("string_above_max_length", "at most {} characters", "max_length"),
    "too_short": ("array_below_min_length", "at least {} entries", "min_length"),
    "too_long": ("array_above_max_length", "at most {} entries", "max_length"),
}
"""pydantic's kind of error -> code, words, name of the bound."""


def explained(error: ValidationError) -> InvalidRequest:
    """Name the first wrong field by its path, with its bound and OpenAI's code."""
    first = error.errors(include_url=False, include_input=True)[0]
    kind, context = first["type"], first.get("ctx", {})
    param = _dotted((*first["loc"], *filter(None, [context.get("field")])))
    absent = first["input"] is None and len(first["loc"]) == 1  # null means absent
    if kind == "missing" or absent:
        return InvalidRequest(
            f"Missing required parameter: '{param}'.",
            param=param,
            code="missing_required_parameter",
        )
    if kind in _BOUND:
        code, words, key = _BOUND[kind]
        number = "integer" if isinstance(context[key], int) else "decimal"
        return InvalidRequest(
            f"Invalid value for '{param}': must be {words} {context[key]}.",
            param=param,
            code=f"{number}_{code}",
        )
    if kind in _LENGTH:
        code, words, key = _LENGTH[kind]
        length = words.format(context[key])
        return InvalidRequest(
            f"Invalid value for '{param}': must have {length}.", param=param, code=code
        )
    if kind == "literal_error":
        return InvalidRequest(
            f"Invalid value for '{param}': must be {context['expected']}.", param=param
        )
    if kind == "unsupported_parameter":
        because = f": {context['why']}" if "why" in context else ""
        message = f"Unsupported parameter: '{param}' is not supported by this server{because}."
        return UnsupportedParameter(first["msg"] or message, param=param)
    if (
        kind.startswith("int_")
        and isinstance(first["input"], float)
        and abs(first["input"]) >= 2**63
    ):  # which the parser has made a float of
        bound = "above_max" if first["input"] > 0 else "below_min"
        return InvalidRequest(
            f"Invalid value for '{param}': must be an integer of 64 bits.",
            param=param,
            code=f"integer_{bound}_value",
        )
    if (expected := _EXPECTED.get(kind.removesuffix("_type").removesuffix("_from_float"))) or (
        kind == "finite_number" and (expected := "a finite number")
    ):
        return InvalidRequest(
            f"Invalid type for '{param}': expected {expected}, but got "
            f"{_json_type(first['input'])} instead.",
            param=param,
            code="invalid_type",
        )
    message = first["msg"].removeprefix("Value error, ")
    return InvalidRequest(f"Invalid value for '{param}': {message}", param=param)


_UNION_MEMBERS = {"str", "list[str]", "dict[str,any]"}
"""Steps that pydantic adds to the location of a value that may be of several types."""


def _dotted(location: tuple[int | str, ...]) -> str:
    """('messages', 0, '~parts', 'content') -> messages[0].content; union tags begin with ~."""
    dotted = ""
    for step in location:
        if isinstance(step, int):
            dotted += f"[{step}]"
        elif not step.startswith("~") and step not in _UNION_MEMBERS:
            if not _FIELD.fullmatch(step):
                break  # do not repeat in the answer a key that the client invented
            dotted += f".{step}" if dotted else step
    return dotted


def _json_type(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a number"
        case str():
            return "a string"
        case list() | tuple():
            return "an array"
        case _:
            return "an object"
