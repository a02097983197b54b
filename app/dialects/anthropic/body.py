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
    """Author of the turn. A `system` turn at the beginning belongs to `system`; a later one becomes
    part of the turn before it, or of the next one."""
    content: text_or(AnyBlock)  # type: ignore[valid-type]
    """The text, or blocks, at most 4096."""


class CustomTool(Body):
    type: Literal["custom"] | None = None
    """Kind of the tool: one that the client runs, also without this field."""
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,128}$")]
    """Name of the tool, by which the model calls it. Unique in the request."""
    description: Annotated[str, Field(max_length=65_536)] | None = None
    """What the tool does, as the model reads it."""
    input_schema: dict[str, Any]
    """JSON schema of the arguments, of the type `object`, within `MAX_SCHEMA_*`."""
    strict: bool | None = None
    """Hold the arguments to the schema also where the model need not call; a schema that cannot be
    enforced is refused. Default: false."""


class ServerTool(Body):
    """A tool that Anthropic's servers would run, known by its type. The model is not shown it."""

    model_config = ConfigDict(extra="ignore")

    type: str
    """A tool that Anthropic's servers run. The model is not shown it; `bash_*`, `text_editor_*`,
    `memory_*` and `computer_*` are refused."""

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
    """`auto`: the model may call tools; `any`: it has to call one; `tool`: it has to call `name`;
    `none`: it may not."""
    name: Annotated[str, Field(max_length=256)] | None = None
    """Name of the tool to call, with the type `tool`."""
    disable_parallel_tool_use: bool | None = None
    """Allow one call in an answer, not several. Default: false."""


class Thinking(Body):
    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    """`disabled` switches the thinking off, the others on, as far as the model's chat template
    can."""
    budget_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Most tokens of thinking, required with `enabled`: at least 1024 and less than `max_tokens`.
    Without effect for a model whose thinking ends with no marker of its own."""
    display: Literal["summarized", "omitted", "updates"] | None = None
    """`omitted` leaves the text of the thinking out of the answer; the others show it whole."""


class Format(Body):
    type: Literal["json_schema"]
    """Kind of the form: JSON that follows a schema."""
    json_schema: dict[str, Any] = Field(alias="schema")
    """The JSON schema that the answer follows. A keyword that cannot be enforced is refused, unless
    the schema has `"x-best-effort": true`."""


class OutputConfig(Body):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    """How much the model thinks. The chat template decides what follows; an effort that it refuses
    becomes the nearest one that it takes."""
    format: Format | None = None
    """Form of the answer. Default: text."""


class PromptFields(Body):
    """What decides which tokens the model reads."""

    unsupported: ClassVar[Unsupported] = {
        "compaction": (),
        "container": (),
        "mcp_servers": ([],),
        "thread": (),
    }

    model: Annotated[str, Field(min_length=1, max_length=512)]
    """A name from `/v1/models` (the model, an alias or an adapter), `default` or `sglang`. Others
    are 404, unless the operator takes any name."""
    messages: Annotated[list[Turn], Field(fail_fast=True)]
    """The conversation, oldest turn first; 1 to `MAX_MESSAGES`. The answer goes on with a last turn
    of the assistant's."""
    system: text_or(TextBlock) | None = None  # type: ignore[valid-type]
    """The system message: a text, or blocks of text. Claude Code's billing block is left out."""
    tools: Annotated[list[AnyTool], Field(fail_fast=True)] | None = None
    """Tools that the model may call, at most `MAX_TOOLS`."""
    tool_choice: ToolChoice | None = None
    """Which tools the model may or has to call. Default: `auto`."""
    thinking: Thinking | None = None
    """Whether and how long the model thinks. Default: off, or what the chat template does with
    `MESSAGES_THINKING=template`."""
    output_config: OutputConfig | None = None
    """How much the model thinks, and the form of the answer."""
    output_format: Format | None = None
    """The same as `output_config.format`, by its old name. Refused beside it."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables of the model's chat template, at most 16: names in `ALLOWED_TEMPLATE_KWARGS`,
    values booleans or words of at most 64 characters."""

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
    """Most tokens of the answer, thinking included. What does not fit into the context is cut off,
    not refused; 0 reads the prompt and answers nothing."""
    stream: bool | None = None
    """Send the answer as server-sent events while it is generated. Default: false."""
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    """Randomness of the choice of each token; 0 takes the likeliest one. Default: the operator's
    (`DEFAULT_SAMPLING`) or the model's, else 1."""
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Sample only from the likeliest tokens whose probabilities add up to this. Default: the
    operator's or the model's, else 1."""
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Sample only from this many of the likeliest tokens; 0, and more than the vocabulary has, are
    off. Default: the operator's or the model's, else off."""
    stop_sequences: Annotated[list[str], Field(max_length=_MAX_STOPS)] | None = None
    """End the answer before the first of these texts, at most `MAX_STOPS` of at most
    `MAX_STOP_CHARS` characters each."""
    cache_salt: Annotated[str, Field(max_length=256)] | None = None
    """Share the prefix cache only with requests that have the same text here."""
    prompt_cache_key: Annotated[str, Field(max_length=512)] | None = None
    """The client's name for the conversation. It separates prefix caches with `CACHE_SCOPE=session`
    and has no effect otherwise."""
