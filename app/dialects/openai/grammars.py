"""The request fields that constrain the answer's form, and their lowering to grammars.

Source: `response_format` from OpenAI; `json_schema`, `regex`, `ebnf`, `structural_tag` from SGLang;
`guided_*` and `structured_outputs` from vLLM; read 2026-11.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field

from app.dialects.body import Body
from app.errors import InvalidRequest, UnsupportedParameter, too_many
from app.grammars.bounds import check_regex, check_schema, check_text
from app.settings.bounds import Bounds, GrammarBounds
from app.types import Grammar


class JsonSchema(Body):
    """Without `schema` it is an error: a schema in another place would be ignored."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")] | None = None
    """Name of the schema. Without effect: the model is not shown it."""
    description: Annotated[str, Field(max_length=8192)] | None = None
    """What the schema is for. Without effect: the model is not shown it."""
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    """The JSON schema that the answer follows; required. A keyword that cannot be enforced is
    refused, unless the schema has `"x-best-effort": true`."""
    strict: bool | None = None
    """Without effect: the schema is always enforced."""


class ResponseFormat(Body):
    """`text`, `json_object`, `json_schema`; SGLang's `structural_tag` with ALLOW_GRAMMARS."""

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    """`text`: any text; `json_object`: any JSON object; `json_schema`: JSON that follows the
    schema; `structural_tag`: only with `ALLOW_GRAMMARS=true`."""
    json_schema: JsonSchema | None = None
    """The schema of the type `json_schema`, where OpenAI has it."""
    flat: dict[str, Any] | None = Field(None, alias="schema")
    """The schema of the type `json_schema` or `json_object`, where llama.cpp and Together have it.
    It takes precedence over the other places."""
    value: dict[str, Any] | None = None
    """The schema of the type `json_schema` or `json_object`, where TGI has it."""
    format: dict[str, Any] | None = None
    """The format of the type `structural_tag`, as SGLang takes it."""


class StructuredOutputs(Body):
    """vLLM's newer form of the `guided_*` fields."""

    json_schema: dict[str, Any] | str | None = Field(None, alias="json")
    """The JSON schema that the answer follows, as an object or as text."""
    regex: str | None = None
    """The regular expression that the whole answer matches."""
    choice: list[str] | None = None
    """The texts of which the answer is one, at most `MAX_SCHEMA_ENUM`."""
    grammar: str | None = None
    """The grammar that the answer follows, in GBNF or Lark."""


class GrammarFields(Body):
    """The fields that constrain the answer. A request has at most one of them."""

    response_format: ResponseFormat | None = None
    """Form of the answer: text, any JSON object, or JSON that follows a schema. Only one field of a
    request may constrain the answer."""
    json_schema: dict[str, Any] | str | None = None
    """The JSON schema that the answer follows, as an object or as text: SGLang's form of
    `response_format`."""
    regex: str | None = None
    """SGLang's: the regular expression that the whole answer matches. Only with
    `ALLOW_GRAMMARS=true`."""
    ebnf: str | None = None
    """SGLang's: the grammar that the answer follows, in GBNF or Lark. Only with
    `ALLOW_GRAMMARS=true`."""
    guided_json: dict[str, Any] | str | None = None
    """vLLM's: the JSON schema that the answer follows, as an object or as text. Only with
    `ALLOW_GRAMMARS=true`."""
    guided_regex: str | None = None
    """vLLM's: the regular expression that the whole answer matches. Only with
    `ALLOW_GRAMMARS=true`."""
    guided_choice: Annotated[list[str], Field(min_length=1)] | None = None
    """vLLM's: the texts of which the answer is one, at most `MAX_SCHEMA_ENUM`. Only with
    `ALLOW_GRAMMARS=true`."""
    guided_grammar: str | None = None
    """vLLM's: the grammar that the answer follows, in GBNF or Lark. Only with
    `ALLOW_GRAMMARS=true`."""
    grammar: str | None = None
    """llama.cpp's: the grammar that the answer follows, in GBNF or Lark. Only with
    `ALLOW_GRAMMARS=true`."""
    structured_outputs: StructuredOutputs | None = None
    """vLLM's newer form of the `guided_*` fields: exactly one of its fields is set. Only with
    `ALLOW_GRAMMARS=true`."""

    def constraint(self, bounds: Bounds) -> Grammar | None:
        """The grammar of the one field that is set. Raises InvalidRequest."""
        set_fields = [field for field in _GRAMMARS if getattr(self, field) is not None]
        if self.response_format is not None and self.response_format.type == "text":
            set_fields.remove("response_format")
        if len(set_fields) > 1:
            first, second, *_ = set_fields
            raise InvalidRequest(f"'{first}' and '{second}' exclude each other.", param=second)
        if not set_fields:
            return None
        field = set_fields[0]
        if field == "response_format":
            assert self.response_format is not None
            return _response_format(self.response_format, bounds)
        if field != "json_schema":  # SGLang's form of a response format: always allowed
            _need_grammars(bounds, field)
        if field == "structured_outputs":
            return _structured(self.structured_outputs, bounds)
        return _guided(_GRAMMARS[field], getattr(self, field), bounds.grammar, field)


_GRAMMARS = {
    "response_format": "",
    "json_schema": "json",
    "structured_outputs": "",
    "regex": "regex",
    "ebnf": "grammar",
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "grammar": "grammar",
}
"""Field -> kind of its grammar, in the words of `StructuredOutputs`; "" if the value names it."""


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
        case "json_schema" | "json_object" if format.flat is not None:
            return schema_grammar(format.flat, bounds.grammar, f"{param}.schema")
        case "json_schema" | "json_object" if format.value is not None:
            return schema_grammar(format.value, bounds.grammar, f"{param}.value")
        case "json_schema":
            wrapper = format.json_schema
            if wrapper is None or wrapper.json_schema is None:
                missing = f"{param}.json_schema" + (".schema" if wrapper is not None else "")
                raise InvalidRequest(
                    f"Missing required parameter: '{missing}'.",
                    param=missing,
                    code="missing_required_parameter",
                )
            return schema_grammar(
                wrapper.json_schema, bounds.grammar, f"{param}.json_schema.schema"
            )
        case "structural_tag":
            _need_grammars(bounds, param)
            tag = {"type": "structural_tag", "format": format.format or {}}
            check_schema(tag, bounds.grammar, param=param)
            return Grammar("structural_tag", json.dumps(tag), param)
        case _:
            return Grammar("json_schema", ANY_OBJECT)


ANY_OBJECT = '{"type":"object"}'


def schema_grammar(schema: dict[str, Any], bounds: GrammarBounds, param: str) -> Grammar:
    """Check a JSON schema and make it a grammar. Raises InvalidRequest that names the bound."""
    check_schema(schema, bounds, param=param)
    return Grammar("json_schema", orjson.dumps(schema).decode(), param)


def _structured(outputs: StructuredOutputs | None, bounds: Bounds) -> Grammar:
    by_kind = {
        "json": outputs and outputs.json_schema,
        "regex": outputs and outputs.regex,
        "choice": outputs and outputs.choice,
        "grammar": outputs and outputs.grammar,
    }
    set_kinds = [(kind, value) for kind, value in by_kind.items() if value]
    if len(set_kinds) != 1:
        raise InvalidRequest(
            "'structured_outputs' must have exactly one of json, regex, choice and grammar.",
            param="structured_outputs",
        )
    kind, value = set_kinds[0]
    return _guided(kind, value, bounds.grammar, f"structured_outputs.{kind}")


def _guided(kind: str, value: Any, bounds: GrammarBounds, param: str) -> Grammar:
    match kind:
        case "json":
            return schema_grammar(_decoded_schema(value, param), bounds, param)
        case "choice":
            return _one_of(value, bounds, param)
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


def _one_of(choices: list[str], bounds: GrammarBounds, param: str) -> Grammar:
    """A grammar of exactly these texts, without quotes."""
    if len(choices) > bounds.max_schema_enum:
        raise too_many(param, bounds.max_schema_enum)
    text = json.dumps(choices)
    check_text(text, bounds, param=param)
    return Grammar("choice", text, param)
