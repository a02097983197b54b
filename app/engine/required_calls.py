"""The JSON schema of an answer that must consist of calls: `reading`'s `CallArray` reads it."""

from __future__ import annotations

import json

from app.grammars.keywords import BEST_EFFORT
from app.grammars.lark import RULES
from app.grammars.references import rerooted
from app.types import Grammar, Json, Tool, ToolUse

_MAX_ARRAY_CALLS = 8


def calls_grammar(use: ToolUse) -> Grammar:
    parts = schemas(use)
    if any(f'"{RULES}"' in text for _, text in parts):  # which no schema can say
        return Grammar("structural_tag", json.dumps(_calls_tag(use)), "tools", parts=parts)
    return Grammar("json_schema", json.dumps(calls_schema(use)), "tools", parts=parts)


def _calls_tag(use: ToolUse) -> Json:
    tags = [
        {
            "type": "tag",
            "begin": f'{{"name": {json.dumps(tool.name)}, "parameters": ',
            "content": {"type": "json_schema", "json_schema": constrained(tool)},
            "end": "}",
        }
        for tool in use.callable
    ]
    calls = {
        "type": "tags_with_separator",
        "separator": ", ",
        "at_least_one": True,
        "stop_after_first": not use.parallel or use.named,
        "max_items": _MAX_ARRAY_CALLS,
        "tags": tags,
    }
    begin, end = ({"type": "const_string", "value": bracket} for bracket in "[]")
    return {"format": {"type": "sequence", "elements": [begin, calls, end]}}


def schemas(use: ToolUse) -> tuple[tuple[str, str], ...]:
    """The schema of each tool that may be called: the request field, and its text."""
    return tuple(
        (tool.param, json.dumps(constrained(tool)))
        for tool in use.callable
        if tool.parameters is not None
    )


def constrained(tool: Tool) -> Json:
    """The schema of its arguments, an object; for a tool that is not strict, as far as it can be
    enforced."""
    schema = {"type": "object", **(tool.parameters or {"properties": {}})}
    return schema if tool.strict else {**schema, BEST_EFFORT: True}


def calls_schema(use: ToolUse) -> Json:
    definitions: Json = {}
    calls = []
    for no, tool in enumerate(use.callable):
        definitions[f"tool{no}"] = rerooted(constrained(tool), f"#/$defs/tool{no}")
        calls.append(
            {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "enum": [tool.name]},
                    "parameters": {"$ref": f"#/$defs/tool{no}"},
                },
                "required": ["name", "parameters"],
                "additionalProperties": False,
            }
        )
    return {
        "type": "array",
        "minItems": 1,
        # A small model would write calls until its tokens are used up.
        "maxItems": _MAX_ARRAY_CALLS if use.parallel and not use.named else 1,
        "items": calls[0] if len(calls) == 1 else {"anyOf": calls},
        "$defs": definitions,
    }
