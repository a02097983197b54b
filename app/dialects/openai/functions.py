"""`functions` and `function_call`: the API's first form of tools, which clients of 2023 send.

They are lowered as tools of which one may be called.

Source: https://platform.openai.com/docs/api-reference/chat/create (deprecated), read 2026-11.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from app.dialects import tool_use
from app.dialects.openai.tools import Function, Named
from app.errors import InvalidRequest, too_many
from app.settings.bounds import Bounds
from app.types import ToolUse

Functions = Annotated[list[Function], Field(max_length=4096, fail_fast=True)]
FunctionChoice = Annotated[
    Annotated[Literal["none", "auto"], Tag("~word")] | Annotated[Named, Tag("~named")],
    Discriminator(lambda value: "~word" if isinstance(value, str) else "~named"),
]


def lower(
    functions: Sequence[Function],
    choice: str | Named | None,
    bounds: Bounds,
    *,
    formatted: bool,
    beside: object,
    parallel: bool | None,
) -> ToolUse | None:
    """As `tools.lower`. `beside`: what the request has of the newer form. Raises InvalidRequest."""
    if beside:
        raise InvalidRequest(
            "'functions' is the older form of 'tools'; send one of them.", param="functions"
        )
    if functions and parallel is not None:
        raise InvalidRequest(
            "'parallel_tool_calls' is only allowed with 'tools'; of 'functions' one is called.",
            param="parallel_tool_calls",
        )
    if not functions and choice not in (None, "none"):
        raise InvalidRequest(
            "'function_call' is only allowed when 'functions' are specified.",
            param="function_call",
        )
    if len(functions) > bounds.max_tools:
        raise too_many("functions", bounds.max_tools)
    named = choice.name if isinstance(choice, Named) else None
    lowered = tuple(
        tool_use.function(
            each.name,
            description=each.description,
            parameters=each.parameters,
            strict=each.strict,
            param=f"functions[{no}].parameters",
            bounds=bounds,
            compiled=formatted or named is not None,
        )
        for no, each in enumerate(functions)
    )
    names = [tool.name for tool in lowered]
    for no, name in enumerate(names):
        if name in names[:no]:
            raise InvalidRequest(
                f"Invalid value for 'functions': the name '{name}' is used twice.",
                param=f"functions[{no}]",
            )
    if named is not None and named not in names:
        raise InvalidRequest(
            "Invalid value for 'function_call': there is no function of that name in 'functions'.",
            param="function_call",
        )
    if choice == "none" or not lowered:
        return None
    allowed = names if named is None else [named]
    forced = named is not None
    return tool_use.use(lowered, allowed=allowed, required=forced, named=forced, parallel=False)
