"""A tool as OpenAI writes a function, which is how SGLang and chat templates take it."""

from __future__ import annotations

from app.types import Json, Tool


def as_function(tool: Tool) -> Json:
    """The tool as OpenAI writes a function; a free-form tool takes one string."""
    function: Json = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.parameters is not None:
        function["parameters"] = tool.parameters
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}
