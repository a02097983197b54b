"""The arguments of a call as models write them in XML: a tag for each, strings without quotes.

xgrammar's styles of a JSON schema (0.2.7, `structural_tag.py`) that are a list of such tags. What a
string may be is only as strict as text without quotes can be: one of an enum, or a length.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

from app.grammars.keywords import BESIDE, BEST_EFFORT, LARGEST_COUNT, asserted, check, leave_out
from app.grammars.refused import Refused
from app.grammars.schema import FORMATS
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
_OF_ROOT = {"type", "properties", "required", "additionalProperties"}


class Pieces(Protocol):
    """What writes the pieces of a grammar."""

    def literal(self, text: str) -> str: ...

    def after_blank(self, text: str) -> str:
        """The text, with two blanks at most before it."""

    def text_until(self, end: str, pattern: str = "(?s:.*)") -> str:
        """Text that follows a pattern, up to the first `end` and with it."""

    def json(self, schema: Json) -> str: ...

    def text_by(self, rules: str) -> str:
        """Text that follows these rules of a client."""

    def rule(self, body: str) -> str:
        """The name of a rule for this expression."""


def arguments(schema: Json, style: str, pieces: Pieces) -> str:
    """The expression for an object of this schema. Raises Refused."""
    best_effort = schema.get(BEST_EFFORT) is True
    parts_only = {key: schema[key] for key in _OF_ROOT if key in schema}
    check(parts_only if best_effort else schema, "#")
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not best_effort:
        if unknown := sorted(asserted(schema) - _OF_ROOT):
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
            for is_string, expression in value.forms(each)
        )
        part = pieces.rule(" | ".join(forms))
        parts.append(part if name in required else f"{part}?")
    return " ".join(parts) or '""'


_NOT_HERE = "which cannot be enforced in this model's way of calling"


_REFUSED_OF_TEXT = {*BESIDE, "pattern", "not", "if", "$dynamicRef", "$recursiveRef"}
"""Of what a text may break."""
_TYPES = ["string", "null", "boolean", "number", "array", "object"]
_MAX_STEPS = 8
"""Of `$ref` and combinators inside each other."""


class _Value:
    """One value, up to its end tag."""

    def __init__(self, place: str, end: str, shared: Json, pieces: Pieces) -> None:
        self._place, self._end, self._shared, self._pieces = place, end, shared, pieces
        self._best_effort = shared.get(BEST_EFFORT) is True
        self._last = pieces.literal(end)

    def forms(self, schema: Any, steps: int = 0) -> list[tuple[str, str]]:
        """Each with whether it is a string: true or false. Raises Refused."""
        schema = {} if schema is True else schema
        if not isinstance(schema, dict):
            raise Refused(f"has at {self._place} a schema that no value follows")
        if self._best_effort:
            schema = {**schema}
            leave_out(schema, without_patterns=False)
        try:
            check(schema, self._place)
        except Refused as refused:
            return self._refuse(str(refused))
        asked = asserted(schema)
        if (branches := self._branches(schema, asked, steps)) is not None:
            forms = [form for each in branches for form in self.forms(each, steps + 1)]
            return list(dict.fromkeys(forms))
        types = schema.get("type", _TYPES)
        names = types if isinstance(types, list) else [types]
        if "string" not in names:
            return [self._json(schema)]
        unknown = sorted(asked & _REFUSED_OF_TEXT)
        if schema.get("format") in FORMATS:
            unknown.append("format")
        if unknown and not (self._best_effort and BESIDE.isdisjoint(unknown)):
            return self._refuse(f"has '{unknown[0]}' at {self._place}, {_NOT_HERE}")
        return self._of_types(schema, [str(name) for name in names if name != "string"])

    def _branches(self, schema: Json, asked: set[str], steps: int) -> list[Any] | None:
        """The schemas of which a value follows one, where that is all that the schema says."""
        if steps > _MAX_STEPS:
            return None
        if asked == {"$ref"}:
            _, _, path = str(schema["$ref"]).partition("#/")
            kind, _, name = path.partition("/")
            target = self._shared.get(kind, {})
            return [target[name]] if isinstance(target, dict) and name in target else None
        if asked == {"allOf"} and len(schema["allOf"]) == 1:
            return list(schema["allOf"])
        return list(schema["anyOf"]) if asked == {"anyOf"} else None

    def _of_types(self, schema: Json, others: list[str]) -> list[tuple[str, str]]:
        values = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if values is None:
            rest = [self._json({**schema, "type": others})] if others else []
            return [self._text(schema), *rest]
        if "const" in schema:
            values = [value for value in values if value == schema["const"]]
        least, most = schema.get("minLength", 0), schema.get("maxLength", math.inf)
        texts = [
            value for value in values if isinstance(value, str) and least <= len(value) <= most
        ]
        forms = []
        if any(self._end in text for text in texts):
            return self._refuse(f"has at {self._place} a value with {self._end}, which ends it")
        if texts:
            choices = " | ".join(map(self._pieces.literal, texts))
            forms.append(("true", f"{_BLANK} ({choices}) {_BLANK} {self._last}"))
        if others and any(not isinstance(value, str) for value in values):
            forms.append(self._json({**schema, "type": others}))
        if not forms:
            raise Refused(f"has at {self._place} a schema that no value follows")
        return forms

    def _refuse(self, reason: str) -> list[tuple[str, str]]:
        if not self._best_effort:
            raise Refused(reason)
        return [self._any_text(), self._json({})]

    def _any_text(self) -> tuple[str, str]:
        return "true", self._pieces.text_until(self._end)

    def _json(self, schema: Json) -> tuple[str, str]:
        try:
            value = self._pieces.json({**schema, **self._shared})
        except Refused as refused:
            raise Refused(str(refused).replace(" at #", f" at {self._place}", 1)) from None
        return "false", f"{_BLANK} {value} {_BLANK} {self._last}"

    def _text(self, schema: Json) -> tuple[str, str]:
        if isinstance(rules := schema.get("x-lark"), str):
            return "true", f"/\\n?/ {self._pieces.text_by(rules)} {_BLANK} {self._last}"
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        if not least and most is None:
            return self._any_text()
        count = f"{int(least)},{'' if most is None else min(int(most), LARGEST_COUNT)}"
        return "true", self._pieces.text_until(self._end, f"\\n?(?s:.){{{count}}}\\n?")
