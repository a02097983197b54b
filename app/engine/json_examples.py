"""A small value that a JSON schema allows, for the scripted engine.

Types, `required`, `enum`, `const`, local `$ref`, the first of `anyOf` and `oneOf`, the smallest
number, length and count are honoured. Patterns and formats are not.
"""

from __future__ import annotations

from typing import Any

_DEEPEST = 32


def example(schema: Any, root: Any = None, depth: int = 0) -> Any:
    """`root`: the whole schema, which `$ref` points into."""
    root = schema if root is None else root
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return "text"
    for word in ("const", "default"):
        if word in schema:
            return schema[word]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    if isinstance(ref := schema.get("$ref"), str):
        return example(_resolved(ref, root), root, depth + 1)
    for word in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(word), list) and schema[word]:
            return example(schema[word][0], root, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    return _of_type(kind[0] if isinstance(kind, list) and kind else kind, schema, root, depth)


def _of_type(kind: object, schema: dict[str, Any], root: Any, depth: int) -> Any:
    match kind:
        case "object":
            properties = schema.get("properties") or {}
            return {
                name: example(properties.get(name, {}), root, depth + 1)
                for name in schema.get("required", ())
            }
        case "array":
            item = example(schema.get("items", {}), root, depth + 1)
            return [item] * int(schema.get("minItems", 0))
        case "integer" | "number":
            return schema.get("minimum", min(0, schema.get("maximum", 0)))
        case "boolean":
            return True
        case "null":
            return None
        case _:
            text = "text".ljust(int(schema.get("minLength", 0)), "t")
            return text[: schema.get("maxLength", len(text))]


def _resolved(ref: str, root: Any) -> Any:
    """The value that a reference inside the same schema points at; {} if there is none."""
    place = root
    for step in ref.removeprefix("#").strip("/").split("/") if ref != "#" else ():
        place = (
            place.get(step.replace("~1", "/").replace("~0", "~"))
            if isinstance(place, dict)
            else None
        )
    return {} if place is None else place
