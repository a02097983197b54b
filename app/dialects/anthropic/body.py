"""The body of a Messages request, and of one that only counts its tokens.

Source: Anthropic's OpenAPI document and anthropic-python 2.14, read 2026-11. Fields that are not
known are ignored, as the lists are open.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from app.dialects.anthropic.blocks import AnyBlock, TextBlock, kind_of, refused, text_or
from app.dialects.body import Body, Unsupported
from app.settings.bounds import Bounds, hard_limit

_MAX_STOPS = hard_limit("max_stops")
_CLIENT_TOOLS = ("bash_", "text_editor_", "memory_", "computer_")
"""Tools that Anthropic has defined and the client runs: they have no schema of their own."""


class Turn(Body):
    role: Literal["user", "assistant", "system"]
    content: text_or(AnyBlock)  # type: ignore[valid-type]


class CustomTool(Body):
    type: Literal["custom"] | None = None
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,128}$")]
    description: Annotated[str, Field(max_length=65_536)] | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None


class ServerTool(Body):
    """One that Anthropic's servers would run, by its type: the model is not shown it."""

    model_config = ConfigDict(extra="ignore")

    type: str

    @model_validator(mode="before")
    @classmethod
    def _not_the_clients(cls, data: Any) -> Any:
        kind = kind_of(data)
        if isinstance(kind, str) and kind.startswith(_CLIENT_TOOLS):
            raise refused("this tool is not supported here; declare it as a custom tool")
        return data


AnyTool = Annotated[
    Annotated[CustomTool, Tag("custom")] | Annotated[ServerTool, Tag("~server")],
    Discriminator(lambda value: "custom" if kind_of(value) in (None, "custom") else "~server"),
]


class ToolChoice(Body):
    type: Literal["auto", "any", "tool", "none"]
    name: Annotated[str, Field(max_length=256)] | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Body):
    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    display: Literal["summarized", "omitted", "updates"] | None = None


class Format(Body):
    type: Literal["json_schema"]
    json_schema: dict[str, Any] = Field(alias="schema")


class OutputConfig(Body):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: Format | None = None


class PromptFields(Body):
    """What decides which tokens the model reads."""

    unsupported: ClassVar[Unsupported] = {
        "compaction": (),
        "container": (),
        "mcp_servers": ([],),
        "thread": (),
    }

    model: Annotated[str, Field(min_length=1, max_length=512)]
    messages: Annotated[list[Turn], Field(fail_fast=True)]
    system: text_or(TextBlock) | None = None  # type: ignore[valid-type]
    tools: Annotated[list[AnyTool], Field(fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: Format | None = None
    """The same as `output_config.format`, by its old name."""
    chat_template_kwargs: dict[str, Any] | None = None

    @classmethod
    def lengths(cls, bounds: Bounds) -> dict[str, int]:
        return {
            "messages": bounds.max_messages,
            "tools": bounds.max_tools,
            "stop_sequences": bounds.max_stops,
            "chat_template_kwargs": 16,
        }


class CountBody(PromptFields):
    pass


class MessagesBody(PromptFields):
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)]
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    stop_sequences: Annotated[list[str], Field(max_length=_MAX_STOPS)] | None = None
    cache_salt: Annotated[str, Field(max_length=256)] | None = None
    prompt_cache_key: Annotated[str, Field(max_length=512)] | None = None
