"""A tool in the form of OpenAI's functions, which SGLang and chat templates take."""

from __future__ import annotations

from app.types import Json, Tool


def as_function(tool: Tool) -> Json:
    """OpenAI's JSON of a function."""
    function: Json = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.parameters is not None:
        function["parameters"] = tool.parameters
    return {"type": "function", "function": function}
