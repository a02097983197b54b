"""Parts of JSON Schemas, each with its description, of which the answers' schemas are made."""

from __future__ import annotations

from app.types import Json


def ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def json_object(
    description: str = "", /, *, optional: Json | None = None, **required: Json
) -> Json:
    described: Json = {"type": "object", "properties": {**required, **(optional or {})}}
    if required:
        described["required"] = list(required)
    if description:
        described["description"] = description
    return described


def text(description: str) -> Json:
    return {"type": "string", "description": description}


def count(description: str) -> Json:
    return {"type": "integer", "minimum": 0, "description": description}


def number(description: str) -> Json:
    return {"type": "number", "description": description}


def flag(description: str) -> Json:
    return {"type": "boolean", "description": description}


def one_of(description: str, *values: str) -> Json:
    return {"type": "string", "enum": list(values), "description": description}


def array(description: str, items: Json) -> Json:
    return {"type": "array", "items": items, "description": description}


def nullable(schema: Json) -> Json:
    """Or null. The description stands outside, where generators of clients and Swagger look."""
    inner = {key: value for key, value in schema.items() if key != "description"}
    return {"anyOf": [inner, {"type": "null"}], "description": schema["description"]}


def described_ref(description: str, name: str) -> Json:
    return {**ref(name), "description": description}


def kind(value: str) -> Json:
    return one_of(f"Kind of the object: always `{value}`.", value)
