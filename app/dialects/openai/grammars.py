"""What the answer must look like: the fields by which clients ask for it, as grammars.

Source: `response_format` as OpenAI has it; `json_schema`, `regex`, `ebnf`, `structural_tag` as
SGLang does; `guided_*` and `structured_outputs` as vLLM does; read 2026-11.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field

from app.dialects.body import Body
from app.errors import InvalidRequest, UnsupportedParameter, too_many
from app.generation.grammars import check_regex, check_schema, check_text
from app.settings.bounds import Bounds, GrammarBounds
from app.types import Grammar


class JsonSchema(Body):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")] | None = None
    description: Annotated[str, Field(max_length=8192)] | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """`text`, `json_object`, `json_schema`; SGLang's `structural_tag` with ALLOW_GRAMMARS."""

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: JsonSchema | None = None
    format: dict[str, Any] | None = None


class StructuredOutputs(Body):
    """vLLM's name for the grammars below."""

    json_schema: dict[str, Any] | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None


class GrammarFields(Body):
    """What the answer must look like. At most one of them."""

    response_format: ResponseFormat | None = None
    json_schema: dict[str, Any] | str | None = None
    regex: str | None = None
    ebnf: str | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: Annotated[list[str], Field(min_length=1)] | None = None
    guided_grammar: str | None = None
    structured_outputs: StructuredOutputs | None = None

    def grammar(self, bounds: Bounds) -> Grammar | None:
        """The one that was asked for, within its bounds. Raises InvalidRequest."""
        wanted = [field for field in _GRAMMARS if getattr(self, field) is not None]
        if self.response_format is not None and self.response_format.type == "text":
            wanted.remove("response_format")
        if len(wanted) > 1:
            raise InvalidRequest(
                f"'{wanted[0]}' and '{wanted[1]}' exclude each other.", param=wanted[1]
            )
        if not wanted:
            return None
        field = wanted[0]
        if field == "response_format":
            assert self.response_format is not None
            return _response_format(self.response_format, bounds)
        if field != "json_schema":  # SGLang's way of asking for a response format
            _need_grammars(bounds, field)
        if field == "structured_outputs":
            return _structured(self.structured_outputs, bounds)
        return _guided(_GRAMMARS[field], getattr(self, field), bounds.grammar, field)


_GRAMMARS = {
    "response_format": "", "json_schema": "json", "structured_outputs": "", "regex": "regex",
    "ebnf": "grammar",
    "guided_json": "json", "guided_regex": "regex", "guided_choice": "choice",
    "guided_grammar": "grammar",
}  # fmt: skip


def _need_grammars(bounds: Bounds, param: str) -> None:
    if not bounds.allow_grammars:
        raise UnsupportedParameter(
            f"'{param}' is not taken by this server; use response_format with a JSON schema. The "
            "operator can allow it with ALLOW_GRAMMARS=true.",
            param=param,
        )


def _response_format(format: ResponseFormat, bounds: Bounds) -> Grammar:
    param = "response_format"
    match format.type:
        case "json_schema":
            if format.json_schema is None:
                raise InvalidRequest(
                    f"Missing required parameter: '{param}.json_schema'.",
                    param=f"{param}.json_schema",
                    code="missing_required_parameter",
                )
            schema = format.json_schema.json_schema
            if schema is None:
                return Grammar("json_schema", _OBJECT)
            return schema_grammar(schema, bounds.grammar, f"{param}.json_schema.schema")
        case "structural_tag":
            _need_grammars(bounds, param)
            tag = {"type": "structural_tag", "format": format.format or {}}
            check_schema(tag, bounds.grammar, param=param)
            return Grammar("structural_tag", json.dumps(tag), param)
        case _:
            return Grammar("json_schema", _OBJECT)


_OBJECT = '{"type":"object"}'


def schema_grammar(schema: dict[str, Any], bounds: GrammarBounds, param: str) -> Grammar:
    """A JSON schema as a grammar. Raises InvalidRequest that names the bound."""
    check_schema(schema, bounds, param=param)
    return Grammar("json_schema", orjson.dumps(schema).decode(), param)


def _structured(outputs: StructuredOutputs | None, bounds: Bounds) -> Grammar:
    given = {
        "json": outputs and outputs.json_schema, "regex": outputs and outputs.regex,
        "choice": outputs and outputs.choice, "grammar": outputs and outputs.grammar,
    }  # fmt: skip
    named = [(kind, value) for kind, value in given.items() if value]
    if len(named) != 1:
        raise InvalidRequest(
            "'structured_outputs' must have exactly one of json, regex, choice and grammar.",
            param="structured_outputs",
        )
    kind, value = named[0]
    return _guided(kind, value, bounds.grammar, f"structured_outputs.{kind}")


def _guided(kind: str, value: Any, bounds: GrammarBounds, param: str) -> Grammar:
    match kind:
        case "json":
            return schema_grammar(_decoded_schema(value, param), bounds, param)
        case "choice":
            return schema_free_choice(value, bounds, param)
        case "regex":
            check_regex(value, bounds, param=param)
            return Grammar("regex", value, param)
        case _:
            check_text(value, bounds, param=param)
            return Grammar("ebnf", value, param)


def _decoded_schema(value: Any, param: str) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            value = None
    if not isinstance(value, dict):
        raise InvalidRequest(f"Invalid value for '{param}': must be a JSON schema.", param=param)
    return value


def schema_free_choice(choices: list[str], bounds: GrammarBounds, param: str) -> Grammar:
    """One of the texts, as they are, without quotes."""
    if len(choices) > bounds.max_schema_enum:
        raise too_many(param, bounds.max_schema_enum)
    text = "root ::= " + " | ".join(json.dumps(choice) for choice in choices)
    check_text(text, bounds, param=param)
    return Grammar("ebnf", text, param)
