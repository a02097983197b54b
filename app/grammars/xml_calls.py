"""The arguments of a call as models write them in XML: a tag for each, strings without quotes.

xgrammar's styles of a JSON schema (0.2.7, `structural_tag.py`) that are a list of such tags. What a
string may be is only as strict as text without quotes can be: one of an enum, or a length.
"""

from __future__ import annotations

from typing import Protocol

from app.grammars.keywords import BEST_EFFORT
from app.grammars.refused import Refused
from app.types import Json

_DSML = "\uff5cDSML\uff5c"
_STYLES: dict[str, tuple[list[str], str]] = {
    "qwen_xml": (["<parameter={name}>"], "</parameter>"),
    "glm_xml": (["<arg_key>{name}</arg_key>", "<arg_value>"], "</arg_value>"),
    "minimax_xml": (['<parameter name="{name}">'], "</parameter>"),
    "deepseek_xml": (
        [f'<{_DSML}parameter name="{{name}}" string="{{is_string}}">'], f"</{_DSML}parameter>",
    ),
    "deepseek_v4_1_xml": (
        [f'<{_DSML} parameter name="{{name}}" string="{{is_string}}">'], f"</{_DSML} parameter>",
    ),
}  # fmt: skip
"""Style -> texts before a value, with blanks between them, and the text after it."""
STYLES = frozenset(_STYLES)
_BLANK = r"/[ \n]{0,2}/"
_SHARED = ("$defs", "definitions", BEST_EFFORT)
"""What the schema of each argument needs of the whole."""
_ANNOTATIONS = {"type", "title", "description", "default", "examples", "deprecated"}
_ROOT = {*_ANNOTATIONS, "properties", "required", "additionalProperties", "$defs", "definitions",
         "$schema", BEST_EFFORT}  # fmt: skip


class Pieces(Protocol):
    """What writes the pieces of a grammar."""

    def literal(self, text: str) -> str: ...

    def after_blank(self, text: str) -> str:
        """The text, with two blanks at most before it."""

    def text_until(self, end: str) -> str:
        """Any text, up to the first `end` and with it."""

    def json(self, schema: Json) -> str: ...

    def text_by(self, rules: str) -> str:
        """Text that follows these rules of a client."""

    def rule(self, body: str) -> str:
        """The name of a rule for this expression."""


def arguments(schema: Json, style: str, pieces: Pieces) -> str:
    """The expression for an object of this schema. Raises Refused."""
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if schema.get(BEST_EFFORT) is not True:
        if unknown := sorted(schema.keys() - _ROOT):
            raise Refused(f"has '{unknown[0]}' at #, {_NOT_HERE}")
        if undeclared := sorted(set(required) - properties.keys()):
            raise Refused(f"has '{undeclared[0][:64]}' in 'required' at # but not in 'properties'")
    shared: Json = {key: schema[key] for key in _SHARED if key in schema}
    begin, end = _STYLES[style]
    parts = []
    for name, each in properties.items():
        value = _Value(f"#/properties/{name[:64]}", end, shared, pieces)
        forms = (
            " ".join(
                pieces.after_blank(text.format(name=name, is_string=is_string)) for text in begin
            )
            + f" {expression}"
            for is_string, expression in value.forms(each if isinstance(each, dict) else {})
        )
        part = pieces.rule(" | ".join(forms))
        parts.append(part if name in required else f"{part}?")
    return " ".join(parts) or '""'


_NOT_HERE = "which cannot be enforced in this model's way of calling"


class _Value:
    """One value, up to its end tag."""

    def __init__(self, place: str, end: str, shared: Json, pieces: Pieces) -> None:
        self._place, self._end, self._shared, self._pieces = place, end, shared, pieces
        self._last = pieces.literal(end)

    def forms(self, schema: Json) -> list[tuple[str, str]]:
        """Each with whether it is a string: true or false."""
        types = schema.get("type")
        names = types if isinstance(types, list) else [types]
        if "string" in names:
            others = [name for name in names if name != "string"]
            values = [schema["const"]] if "const" in schema else schema.get("enum", [None])
            if not others or all(isinstance(value, str) for value in values):
                return [("true", self._text(schema))]
            return [("true", self._text(schema)), ("false", self._json({**schema, "type": others}))]
        text = [("true", self._pieces.text_until(self._end))] if _may_be_text(schema) else []
        return [*text, ("false", self._json(schema))]

    def _json(self, schema: Json) -> str:
        return f"{_BLANK} {self._pieces.json({**schema, **self._shared})} {_BLANK} {self._last}"

    def _text(self, schema: Json) -> str:
        if isinstance(rules := schema.get("x-lark"), str):
            return f"/\\n?/ {self._pieces.text_by(rules)} {_BLANK} {self._last}"
        choices = [schema["const"]] if "const" in schema else schema.get("enum")
        if choices is not None:
            texts = [self._pieces.literal(each) for each in choices if isinstance(each, str)]
            return f"{_BLANK} ({' | '.join(texts)}) {_BLANK} {self._last}"
        for keyword in ("pattern", "format"):
            if keyword in schema and self._shared.get(BEST_EFFORT) is not True:
                raise Refused(f"has '{keyword}' at {self._place}, {_NOT_HERE}")
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        if not least and most is None:
            return self._pieces.text_until(self._end)
        count = f"{int(least)},{'' if most is None else int(most)}"
        return f"/\\n?(?s:.){{{count}}}\\n?/ {self._last}"


def _may_be_text(schema: Json) -> bool:
    """It has no type of its own, and nothing else says that it is no string."""
    if {"type", "$ref", "enum", "const"} & schema.keys():
        return False
    branches = schema.get("anyOf", schema.get("oneOf"))
    if not isinstance(branches, list):
        return True
    types = [each.get("type", "string") for each in branches if isinstance(each, dict)]
    return "string" in types
