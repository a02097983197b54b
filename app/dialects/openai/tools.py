"""Tools of a chat request: their definitions, `tool_choice`, and calls of earlier turns.

Source: https://platform.openai.com/docs/api-reference/chat/create (tools, tool_choice), read
2026-11.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticKnownError

from app.dialects import tool_use
from app.dialects.body import Body
from app.errors import InvalidRequest
from app.settings.bounds import Bounds
from app.types import Tool, ToolCall, ToolUse

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
Description = Annotated[str, Field(max_length=65_536)]


def _type(value: Any) -> str:
    """The tag of a union below, by the value's `type`."""
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"~{kind}" if kind in ("custom", "allowed_tools") else "~function"


# -- `tools`: the definitions --------------------------------------------------------------------


class Function(Body):
    name: Name
    description: Description | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(Body):
    type: Literal["function"]
    function: Function


class RegexOrLark(Body):
    syntax: Literal["regex", "lark"]
    definition: str


class CustomFormat(Body):
    type: Literal["text", "grammar"]
    grammar: RegexOrLark | None = None


class Custom(Body):
    name: Name
    description: Description | None = None
    format: CustomFormat | None = None


class CustomTool(Body):
    type: Literal["custom"]
    custom: Custom


AnyTool = Annotated[
    Annotated[FunctionTool, Tag("~function")] | Annotated[CustomTool, Tag("~custom")],
    Discriminator(_type),
]


# -- `tool_choice`: which may or must be called --------------------------------------------------


class Named(Body):
    name: Annotated[str, Field(max_length=64)]


def _nested(data: Any, key: str) -> Any:
    """Accept the Responses API's flat form `{"type": "function", "name": ...}`, too."""
    if isinstance(data, dict) and key not in data and "name" in data:
        return {**data, key: {"name": data["name"]}}
    return data


class FunctionChoice(Body):
    type: Literal["function"]
    function: Named

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, data: Any) -> Any:
        return _nested(data, "function")


def _kind_of_choice(value: Any) -> Any:
    if value not in ("function", "custom", "allowed_tools"):
        hint = f"; '{value}' is a text of its own" if value in ("none", "auto", "required") else ""
        expected = f"'function', 'custom' or 'allowed_tools'{hint}"
        raise PydanticKnownError("literal_error", {"expected": expected})
    return value


class ChosenFunction(FunctionChoice):
    """As the whole of `tool_choice`: what is of no known type is taken for one."""

    type: Annotated[Literal["function"], BeforeValidator(_kind_of_choice)]


class CustomChoice(Body):
    type: Literal["custom"]
    custom: Named

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, data: Any) -> Any:
        return _nested(data, "custom")


AnyName = Annotated[
    Annotated[FunctionChoice, Tag("~function")] | Annotated[CustomChoice, Tag("~custom")],
    Discriminator(_type),
]


class Allowed(Body):
    mode: Literal["auto", "required"]
    tools: Annotated[list[AnyName], Field(min_length=1, max_length=1024)]


class AllowedChoice(Body):
    type: Literal["allowed_tools"]
    allowed_tools: Allowed


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("~word")]
    | Annotated[ChosenFunction, Tag("~function")]
    | Annotated[CustomChoice, Tag("~custom")]
    | Annotated[AllowedChoice, Tag("~allowed_tools")],
    Discriminator(lambda value: "~word" if isinstance(value, str) else _type(value)),
]


# -- `tool_calls`: calls of earlier turns --------------------------------------------------------


class FunctionCall(Body):
    name: Annotated[str, Field(max_length=256)]
    arguments: str


class FunctionToolCall(Body):
    id: Annotated[str, Field(max_length=256)] | None = None
    type: Literal["function"] | None = None
    function: FunctionCall


class CustomCall(Body):
    name: Annotated[str, Field(max_length=256)]
    input: str


class CustomToolCall(Body):
    id: Annotated[str, Field(max_length=256)] | None = None
    type: Literal["custom"]
    custom: CustomCall


PastCall = Annotated[
    Annotated[FunctionToolCall, Tag("~function")] | Annotated[CustomToolCall, Tag("~custom")],
    Discriminator(_type),
]


def past_call(call: FunctionToolCall | CustomToolCall) -> ToolCall:
    """Lower a call of an earlier turn."""
    if isinstance(call, CustomToolCall):
        return ToolCall(call.id or "", call.custom.name, tool_use.as_input(call.custom.input))
    return ToolCall(call.id or "", call.function.name, tool_use.as_object(call.function.arguments))


# -- lowering to `ToolUse` -----------------------------------------------------------------------


def lower(
    tools: list[FunctionTool | CustomTool] | None,
    choice: str | FunctionChoice | CustomChoice | AllowedChoice | None,
    parallel: bool | None,
    bounds: Bounds,
    *,
    formatted: bool = False,
) -> ToolUse | None:
    """The tools that the model may call; None if it may call none. Raises InvalidRequest.

    `formatted`: a grammar constrains the answer, and so the calls.
    """
    if tools is None:
        if choice in (None, "none"):
            return None
        raise InvalidRequest(
            "'tool_choice' is only allowed when 'tools' are specified.", param="tool_choice"
        )
    forced = formatted or choice not in (None, "none", "auto")
    lowered = tuple(_tool(tool, no, bounds, forced) for no, tool in enumerate(tools))
    names = [tool.name for tool in lowered]
    seen = set[str]()
    for no, name in enumerate(names):
        if name in seen:
            raise InvalidRequest(
                f"Invalid value for 'tools': the name '{name}' is used twice.",
                param=f"tools[{no}]",
            )
        seen.add(name)
    allowed, required, named = _allowed(choice, names)
    if choice == "none":
        return None
    return tool_use.use(lowered, allowed=allowed, required=required, named=named, parallel=parallel)


def _allowed(
    choice: str | FunctionChoice | CustomChoice | AllowedChoice | None, names: list[str]
) -> tuple[tuple[str, ...], bool, bool]:
    """Returns (names of tools that may be called, one must be called, the client named it)."""
    known = frozenset(names)
    match choice:
        case FunctionChoice() | CustomChoice():
            return (_known(choice, known, "tool_choice"),), True, True
        case AllowedChoice(allowed_tools=allowed):
            names_allowed = tuple(
                _known(each, known, f"tool_choice.allowed_tools.tools[{no}]")
                for no, each in enumerate(allowed.tools)
            )
            return names_allowed, allowed.mode == "required", False
        case _:
            return tuple(names), choice == "required", False


def _known(choice: FunctionChoice | CustomChoice, names: frozenset[str], param: str) -> str:
    name = choice.function.name if isinstance(choice, FunctionChoice) else choice.custom.name
    if name not in names:
        raise InvalidRequest(
            f"Invalid value for '{param}': there is no tool of that name in 'tools'.", param=param
        )
    return name


def _tool(tool: FunctionTool | CustomTool, no: int, bounds: Bounds, compiled: bool) -> Tool:
    if isinstance(tool, CustomTool):
        custom = tool.custom
        grammar = custom.format.grammar if custom.format else None
        return tool_use.freeform(
            custom.name,
            description=custom.description,
            syntax=grammar.syntax if grammar else None,
            definition=grammar.definition if grammar else "",
            param=f"tools[{no}].custom.format.grammar.definition",
            bounds=bounds,
        )
    function = tool.function
    return tool_use.function(
        function.name,
        description=function.description,
        parameters=function.parameters,
        strict=function.strict,
        param=f"tools[{no}].function.parameters",
        bounds=bounds,
        compiled=compiled,
    )
