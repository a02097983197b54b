"""Tools of a request, whatever dialect defined them, as the model sees them and may call them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec
import orjson

from app.errors import InvalidRequest
from app.grammars.bounds import check_regex, check_schema, check_text
from app.settings.bounds import Bounds, GrammarBounds
from app.types import Json, Tool, ToolUse


def function(
    name: str,
    *,
    description: str | None,
    parameters: dict[str, Any] | None,
    strict: bool | None,
    param: str,
    bounds: Bounds,
    compiled: bool,
) -> Tool:
    """A tool whose arguments are JSON. Raises InvalidRequest that names `param`, the field of its
    parameters.

    `compiled`: its schema becomes a grammar even if it is not strict.
    """
    if parameters is not None:
        # Only schemas that become grammars are bounded tightly: those of real tools are large.
        limits = bounds.grammar if compiled or strict else _shown(bounds.grammar)
        check_schema(parameters, limits, param=param)
        if parameters.get("type", "object") != "object":
            raise InvalidRequest(
                f"Invalid value for '{param}': its type must be 'object'.", param=param
            )
    return Tool(
        name=name,
        description=description,
        param=param,
        parameters=parameters,
        strict=bool(strict),
    )


def freeform(
    name: str,
    *,
    description: str | None,
    syntax: Literal["regex", "lark"] | None,
    definition: str,
    param: str,
    bounds: Bounds,
) -> Tool:
    """A tool that takes one text. `syntax`: of the text's `definition`, which `param` names; None:
    any text."""
    schema: Json = {"type": "string"}
    if syntax == "lark":
        check_text(definition, bounds.grammar, param=param)
        schema["x-lark"] = definition
    elif syntax == "regex":
        check_regex(definition, bounds.grammar, param=param)
        schema["pattern"] = f"^({definition})$"
    return Tool(
        name=name,
        description=description,
        param=param,
        parameters={
            "type": "object",
            "properties": {"input": schema},
            "required": ["input"],
            "additionalProperties": False,
        },
        strict=syntax is not None,
        freeform=True,
    )


def use(
    tools: Sequence[Tool],
    *,
    allowed: Iterable[str],
    required: bool,
    named: bool,
    parallel: bool | None,
) -> ToolUse:
    return ToolUse(
        tools=tuple(tools),
        allowed=tuple(allowed),
        required=required,
        named=named,
        parallel=parallel is not False,
        chars=sum(map(_chars, tools)),
    )


def as_object(arguments: str) -> str:
    """A call's arguments in a conversation. Those that are cut off or free-form are wrapped: the
    conversation must stay usable, and templates need the text of an object."""
    try:
        if isinstance(orjson.loads(arguments or "{}"), dict):
            return arguments or "{}"
    except orjson.JSONDecodeError:
        pass
    return as_input(arguments)


def as_input(text: str) -> str:
    """A free-form tool's input in a conversation."""
    return orjson.dumps({"input": text}).decode()


def _chars(tool: Tool) -> int:
    return len(tool.name) + len(tool.description or "") + len(orjson.dumps(tool.parameters))


def _shown(bounds: GrammarBounds) -> GrammarBounds:
    size = bounds.max_schema_bytes
    return msgspec.structs.replace(
        bounds,
        max_schema_nodes=size,
        max_schema_enum=size,
        max_regex_chars=size,
        max_regex_repeat=10**6,
    )
