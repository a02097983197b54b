"""JSON Schemas of the bodies and of all classes in them, for the description of the API.

A field's description is the text below the field in its class. It is read from the source when the
document is made: pydantic's `use_attribute_docstrings` reads it when a class is made, which costs
every start 100 ms. Where an inherited field means something else, `descriptions` of the class says
what. It is declared in such classes only: pydantic evaluates an annotation of `Body` anew for each
of its subclasses, of which there are a hundred.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise
from typing import cast

from pydantic.json_schema import (
    GenerateJsonSchema,
    JsonSchemaMode,
    JsonSchemaValue,
    models_json_schema,
)
from pydantic_core import core_schema

from app.dialects.body import Body
from app.types import Json

_VENDORS = {
    "app.dialects.openai.responses": "Responses",
    "app.dialects.openai": "OpenAI",
    "app.dialects.anthropic": "Anthropic",
    "app.dialects.sglang": "SGLang",
}
"""The first that a module's name begins with."""


def schemas_of(bodies: Iterable[type[Body]]) -> Json:
    """Name -> schema. A body's name is that of its class, which no other class may have."""
    models: list[tuple[type[Body], JsonSchemaMode]] = [
        (body, "validation") for body in dict.fromkeys(bodies)
    ]
    _, made = models_json_schema(
        models, ref_template="#/components/schemas/{model}", schema_generator=_Described
    )
    schemas: Json = made["$defs"]
    for name, schema in schemas.items():
        schema["title"] = name  # generators of clients name their classes by it
    return schemas


def descriptions(body: type[Body]) -> dict[str, str]:
    """Field -> its description, the inherited ones included."""
    texts: dict[str, str] = {}
    for each in reversed(body.__mro__):
        if issubclass(each, Body):
            texts |= _texts(each.__module__).get(each.__name__, {})
            texts |= each.__dict__.get("descriptions", {})
    for name in body.unsupported.keys() & body.model_fields.keys():
        texts[name] = _refusal(body, name)
    return texts


class _Described(GenerateJsonSchema):
    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        described = super().model_schema(schema)
        body = cast(type[Body], schema["cls"])
        texts = descriptions(body)
        for name, field in body.model_fields.items():
            if (text := texts.get(name)) is not None:
                described["properties"][field.alias or name]["description"] = text
        return described

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        """With `anyOf`: functions choose the class here, and a value may fit that of another, too,
        such as one that has only `type`. Under pydantic's `oneOf` such a value would be invalid."""
        described = super().tagged_union_schema(schema)
        described["anyOf"] = described.pop("oneOf")
        return described

    def normalize_name(self, name: str) -> str:
        """`name`: of a class; with its module in front where two vendors have one of that name."""
        module, _, short = name.rpartition(".")
        vendor = next((_VENDORS[each] for each in _VENDORS if module.startswith(each)), "")
        return super().normalize_name(vendor + short)


def _refusal(body: type[Body], name: str) -> str:
    refused = "Refused with 400 `unsupported_parameter`"
    if harmless := body.unsupported[name]:
        values = " or ".join([f"`{str(each).lower()}`" for each in harmless])
        refused += f", unless it is {values}"
    return f"{refused}: {body.reasons[name]}." if name in body.reasons else f"{refused}."


@cache
def _texts(module: str) -> dict[str, dict[str, str]]:
    """Class -> field -> the text below it. Empty without the source."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, SyntaxError):  # the program goes on without its files, or while they change
        return {}
    return {node.name: dict(_below(node)) for node in tree.body if isinstance(node, ast.ClassDef)}


def _below(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, text in pairwise(node.body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(ast.Constant(str(described))):
                yield name, " ".join(described.split())
