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
    """Name of the function, by which the model calls it. Unique in the request."""
    description: Description | None = None
    """What the function does, as the model reads it."""
    parameters: dict[str, Any] | None = None
    """JSON schema of the arguments, of the type `object`, within `MAX_SCHEMA_*`. Default: the
    function takes no arguments."""
    strict: bool | None = None
    """Hold the arguments to the schema also where the model need not call; a schema that cannot be
    enforced is refused. Default: false."""


class FunctionTool(Body):
    type: Literal["function"]
    """Kind of the tool: its arguments are JSON."""
    function: Function
    """The function that the model may call."""


class RegexOrLark(Body):
    syntax: Literal["regex", "lark"]
    """Language of `definition`."""
    definition: str
    """The regular expression or Lark grammar that the input matches as a whole."""


class CustomFormat(Body):
    type: Literal["text", "grammar"]
    """`text`: any text; `grammar`: what matches `grammar`."""
    grammar: RegexOrLark | None = None
    """The rules of the type `grammar`. Without them the input is any text."""


class Custom(Body):
    name: Name
    """Name of the tool, by which the model calls it. Unique in the request."""
    description: Description | None = None
    """What the tool does, as the model reads it."""
    format: CustomFormat | None = None
    """What the input looks like. Default: any text."""


class CustomTool(Body):
    type: Literal["custom"]
    """Kind of the tool: its input is one text. The model is shown a function with one string."""
    custom: Custom
    """The tool that the model may call."""


AnyTool = Annotated[
    Annotated[FunctionTool, Tag("~function")] | Annotated[CustomTool, Tag("~custom")],
    Discriminator(_type),
]


# -- `tool_choice`: which may or must be called --------------------------------------------------


class Named(Body):
    name: Annotated[str, Field(max_length=64)]
    """Name of a tool or function that the request defines."""


def _nested(data: Any, key: str) -> Any:
    """Accept the Responses API's flat form `{"type": "function", "name": ...}`, too."""
    if isinstance(data, dict) and key not in data and "name" in data:
        return {**data, key: {"name": data["name"]}}
    return data


class FunctionChoice(Body):
    type: Literal["function"]
    """Kind of the tool: a function."""
    function: Named
    """The function. The Responses API's form, `name` beside `type`, is taken, too."""

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
    """The whole of `tool_choice`; also what is read of a value without a known type."""

    type: Annotated[Literal["function"], BeforeValidator(_kind_of_choice)]
    """Kind of the tool that has to be called: a function."""


class CustomChoice(Body):
    type: Literal["custom"]
    """Kind of the tool: a custom one."""
    custom: Named
    """The custom tool. The Responses API's form, `name` beside `type`, is taken, too."""

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
    """`auto`: the model may call one of them; `required`: it has to."""
    tools: Annotated[list[AnyName], Field(min_length=1, max_length=1024)]
    """Tools of the request that may be called. The model is shown all of its tools; calls of the
    others are dropped."""


class AllowedChoice(Body):
    type: Literal["allowed_tools"]
    """Kind of the choice: some of the tools."""
    allowed_tools: Allowed
    """Which tools may be called, and whether one has to be."""


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
    """Name of the function that was called."""
    arguments: str
    """The arguments, as the text of a JSON object. Any other text is shown to the model as one
    string, `input`."""


class FunctionToolCall(Body):
    id: Annotated[str, Field(max_length=256)] | None = None
    """Id of the call, which the `tool` message with its result repeats in `tool_call_id`."""
    type: Literal["function"] | None = None
    """Kind of the tool that was called: a function, also without this field."""
    function: FunctionCall
    """What was called, with which arguments."""


class CustomCall(Body):
    name: Annotated[str, Field(max_length=256)]
    """Name of the custom tool that was called."""
    input: str
    """The text that it was called with."""


class CustomToolCall(Body):
    id: Annotated[str, Field(max_length=256)] | None = None
    """Id of the call, which the `tool` message with its result repeats in `tool_call_id`."""
    type: Literal["custom"]
    """Kind of the tool that was called: a custom one."""
    custom: CustomCall
    """What was called, with which input."""


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
