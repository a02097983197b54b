"""Prompts in OpenAI's format: a text, texts, or the token ids of one prompt or of several."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema

from app.types import Json, Prompt, TextPrompt, TokenPrompt


def read_prompts(value: Any, field: str) -> tuple[Prompt, ...]:
    """Read the value of `field`. Raises ValueError."""
    if isinstance(value, str):
        return (TextPrompt(value, field),)
    if isinstance(value, list) and value:
        if all(isinstance(each, str) for each in value):
            return tuple(TextPrompt(text, f"{field}[{no}]") for no, text in enumerate(value))
        if _are_ids(value):
            return (TokenPrompt(value, field),)
        if all(isinstance(each, list) and _are_ids(each) for each in value):
            return tuple(TokenPrompt(ids, f"{field}[{no}]") for no, ids in enumerate(value))
    raise ValueError(
        "must be a string, an array of strings, an array of token ids or an array of arrays of "
        "token ids, and not empty."
    )


def _are_ids(value: list[Any]) -> bool:
    # `type(...) is`: True is an int too, and JSON integers past 64 bits arrive as floats.
    return all(type(each) is int for each in value)


_TEXT: Json = {"type": "string"}
_IDS: Json = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
TEXTS_SCHEMA: Json = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]}
IDS_SCHEMA: Json = {"anyOf": [_IDS, {"type": "array", "items": _IDS, "minItems": 1}]}
PROMPTS_SCHEMA: Json = {"anyOf": [*TEXTS_SCHEMA["anyOf"], *IDS_SCHEMA["anyOf"]]}

Prompts = Annotated[
    Any,
    PlainValidator(lambda value: read_prompts(value, "prompt")),
    WithJsonSchema(PROMPTS_SCHEMA),
]
