"""Tools and calls in the forms that SGLang and models take."""

from __future__ import annotations

from collections.abc import Callable

from app.types import Json, Tool, ToolCall


def as_function(tool: Tool) -> Json:
    """OpenAI's JSON of a function."""
    function: Json = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.parameters is not None:
        function["parameters"] = tool.parameters
    return {"type": "function", "function": function}


def written_as(tool_call_parser: str | None) -> Callable[[ToolCall], str] | None:
    """Writes a call as a model does whose calls SGLang reads by that parser. None: the parser does
    not say how, or it is not a JSON object with `arguments`."""
    from sglang.srt.function_call.function_call_parser import FunctionCallParser

    detector = FunctionCallParser.ToolCallParserEnum.get(tool_call_parser or "")
    if detector is None:
        return None
    try:
        form = detector().structure_info()
    except (NotImplementedError, TypeError, ValueError):  # one is made from the model's files
        return None
    if "arguments" not in form("name").begin:
        return None

    def write(call: ToolCall) -> str:
        info = form(call.name)
        return f"{info.begin}{call.arguments or '{}'}{info.end}"

    return write
