"""Tools and `tool_choice` of a Responses request: flat, where chat nests them.

Source: OpenAI's OpenAPI document of 2026-08; namespaces and what else Codex 0.169 sends.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from app.dialects.body import Body
from app.types import Json

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,128}$")]
Description = Annotated[str, Field(max_length=65_536)]

_NOT_NEEDED = (
    "web_search", "image_generation", "tool_search", "programmatic_tool_calling",
)  # fmt: skip
"""Tools of OpenAI's own that clients declare without needing them (Codex: web_search). The model is
not shown them. Also by names with a date, such as `web_search_preview_2025_03_11`."""
_NEEDED = (
    "file_search", "code_interpreter", "mcp", "computer", "local_shell", "shell", "apply_patch",
)  # fmt: skip
"""Those that the answer depends on."""


class FunctionTool(Body):
    type: Literal["function"]
    """Kind of the tool: its arguments are JSON."""
    name: Name
    """Name of the function, by which the model calls it. Unique in the request or in its
    namespace."""
    description: Description | None = None
    """What the function does, as the model reads it."""
    parameters: dict[str, Any] | None = None
    """JSON schema of the arguments, of the type `object`, within `MAX_SCHEMA_*`. Default: the
    function takes no arguments."""
    strict: bool | None = None
    """Hold the arguments to the schema also where the model need not call; a schema that cannot be
    enforced is refused. Default: false."""

    @property
    def echo(self) -> Json:
        return {
            "type": "function",
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
            "strict": bool(self.strict),
        }


class CustomFormat(Body):
    type: Literal["text", "grammar"]
    """`text`: any text; `grammar`: what matches `definition`."""
    syntax: Literal["regex", "lark"] | None = None
    """Language of `definition`, required with `grammar`."""
    definition: str | None = None
    """The regular expression or Lark grammar that the input matches as a whole, required with
    `grammar`."""

    @model_validator(mode="after")
    def _complete(self) -> CustomFormat:
        if self.type == "grammar" and (self.syntax is None or self.definition is None):
            field = "syntax" if self.syntax is None else "definition"
            raise PydanticCustomError("missing", "", {"field": field})
        return self


class CustomTool(Body):
    type: Literal["custom"]
    """Kind of the tool: its input is one text. The model is shown a function with one string."""
    name: Name
    """Name of the tool, by which the model calls it. Unique in the request or in its namespace."""
    description: Description | None = None
    """What the tool does, as the model reads it."""
    format: CustomFormat | None = None
    """What the input looks like. Default: any text."""

    @property
    def echo(self) -> Json:
        return self.model_dump(exclude_none=True)


class Namespace(Body):
    """Tools under one name, such as those of one MCP server."""

    type: Literal["namespace"]
    """Kind of the tool: several under one name."""
    name: Name
    """Name of the namespace. The model is shown its tools as `namespace__name`."""
    description: Description | None = None
    """What its tools are for. The model is not shown it."""
    tools: Annotated[
        list[
            Annotated[
                Annotated[FunctionTool, Tag("~function")] | Annotated[CustomTool, Tag("~custom")],
                Discriminator(lambda value: "~custom" if _kind(value) == "custom" else "~function"),
            ]
        ],
        Field(max_length=1024, fail_fast=True),
    ]
    """The tools of the namespace."""

    @property
    def echo(self) -> Json:
        head = self.model_dump(include={"type", "name", "description"}, exclude_none=True)
        return head | {"tools": [tool.echo for tool in self.tools]}


class HostedTool(Body):
    """One of OpenAI's own tools, which the model is not shown."""

    model_config = ConfigDict(extra="allow")

    type: str
    """One of OpenAI's own tools, such as `web_search`. It is repeated in the answer and not shown
    to the model; those that an answer would depend on are refused."""

    @model_validator(mode="before")
    @classmethod
    def _not_needed(cls, data: Any) -> Any:
        kind = _kind(data)
        if isinstance(kind, str) and not kind.startswith(_NOT_NEEDED):
            if kind.startswith(_NEEDED):
                raise PydanticCustomError(
                    "unsupported_parameter",
                    "This server has no tools of its own: only 'function', 'custom' and "
                    "'namespace' tools can be called.",
                    {"field": "type"},
                )
            expected = "'function', 'custom' or 'namespace'"
            raise PydanticCustomError("literal_error", "", {"expected": expected, "field": "type"})
        return data

    @property
    def echo(self) -> Json:
        return self.model_dump()


def _kind(value: Any) -> Any:
    return value.get("type") if isinstance(value, dict) else getattr(value, "type", None)


def _tag(value: Any) -> str:
    kind = _kind(value)
    return f"~{kind}" if kind in ("function", "custom", "namespace") else "~hosted"


AnyTool = Annotated[
    Annotated[FunctionTool, Tag("~function")]
    | Annotated[CustomTool, Tag("~custom")]
    | Annotated[Namespace, Tag("~namespace")]
    | Annotated[HostedTool, Tag("~hosted")],
    Discriminator(_tag),
]


# -- `tool_choice` -------------------------------------------------------------------------------


class Chosen(Body):
    unsupported: ClassVar = {}

    type: Literal["function", "custom"]
    """Kind of the tool that has to be called."""
    name: Annotated[str, Field(min_length=1, max_length=256)]
    """Name of the tool that has to be called."""
    namespace: Annotated[str, Field(max_length=256)] | None = None
    """Namespace of the tool. Without it the name must be unique."""

    @model_validator(mode="before")
    @classmethod
    def _no_hosted_tool(cls, data: Any) -> Any:
        kind = _kind(data)
        if isinstance(kind, str) and kind.startswith((*_NOT_NEEDED, *_NEEDED)):
            raise PydanticCustomError(
                "unsupported_parameter", "This server has no tools of its own that can be chosen."
            )
        return data


class Allowed(Body):
    """A tool that may be called. By `type` OpenAI's own, which are not shown, are told apart."""

    type: str
    """Kind of the tool; others than `function` and `custom` are passed over."""
    name: Annotated[str, Field(max_length=256)] | None = None
    """Name of the tool."""
    namespace: Annotated[str, Field(max_length=256)] | None = None
    """Namespace of the tool. Without it the name must be unique."""


class AllowedTools(Body):
    type: Literal["allowed_tools"]
    """Kind of the choice: some of the tools."""
    mode: Literal["auto", "required"]
    """`auto`: the model may call one of them; `required`: it has to."""
    tools: Annotated[list[Allowed], Field(min_length=1, max_length=1024, fail_fast=True)]
    """Tools of the request that may be called. The model is shown all of its tools; calls of the
    others are dropped."""


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("~word")]
    | Annotated[Chosen, Tag("~chosen")]
    | Annotated[AllowedTools, Tag("~allowed_tools")],
    Discriminator(
        lambda value: (
            "~word"
            if isinstance(value, str)
            else "~allowed_tools"
            if _kind(value) == "allowed_tools"
            else "~chosen"
        )
    ),
]
