"""The body of a Responses request: every field is honoured, echoed or refused by name.

Source: OpenAI's OpenAPI document of 2026-08 and openai-python 3.57; the sampling fields beyond
OpenAI's as chat takes them.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from app.dialects.body import Body, Unsupported
from app.dialects.openai.responses.items import AnyItem
from app.dialects.openai.responses.tool_models import AnyTool, ToolChoice
from app.dialects.openai.sampling import UNSUPPORTED, SamplingFields
from app.settings.bounds import Bounds, hard_limit

Word = Annotated[str, Field(max_length=64)]
Key = Annotated[str, Field(max_length=512)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Summary = Literal["auto", "concise", "detailed"]
Included = Literal[
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
]


class TextFormat(Body):
    """Flat, where chat nests it under `json_schema`."""

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")] | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    description: Annotated[str, Field(max_length=8192)] | None = None
    strict: bool | None = None


class TextOptions(Body):
    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningOptions(Body):
    effort: Effort | None = None
    summary: Summary | None = None
    generate_summary: Summary | None = None
    """The same, by its old name."""
    context: Literal["auto", "current_turn", "all_turns"] | None = None
    mode: Word | None = None
    enabled: bool | None = None
    """OpenRouter's switch."""
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """OpenRouter's bound on the thinking."""


class CacheOptions(Body):
    unsupported: ClassVar[Unsupported] = {"prewarm": (False,)}


class Management(Body):
    type: Literal["compaction"]
    compact_threshold: Annotated[int, Field(ge=1)] | None = None


class ConversationId(Body):
    id: Key


Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]
Input = Annotated[
    Annotated[str, Tag("~text")] | Annotated[list[AnyItem], Field(fail_fast=True), Tag("~items")],
    Discriminator(lambda value: "~items" if isinstance(value, list) else "~text"),
]


class PromptFields(Body):
    """What decides which tokens the model reads: also of `/v1/responses/input_tokens`."""

    unsupported: ClassVar[Unsupported] = {
        "messages": (),
        "prompt": (),
        "response_format": (),
    }

    input: Input | None = None
    instructions: str | None = None
    previous_response_id: Key | None = None
    conversation: (
        Annotated[
            Annotated[str, Field(max_length=512), Tag("~id")]
            | Annotated[ConversationId, Tag("~object")],
            Discriminator(lambda value: "~id" if isinstance(value, str) else "~object"),
        ]
        | None
    ) = None
    tools: Annotated[list[AnyTool], Field(fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    truncation: Literal["auto", "disabled"] | None = None
    enable_thinking: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @classmethod
    def lengths(cls, bounds: Bounds) -> dict[str, int]:
        return {
            **super().lengths(bounds),
            "input": bounds.max_messages,
            "tools": bounds.max_tools,
            "chat_template_kwargs": 16,
        }


class InputTokensBody(PromptFields):
    model: Annotated[str, Field(min_length=1, max_length=512)] | None = None


class ResponsesBody(PromptFields, SamplingFields):
    unsupported: ClassVar[Unsupported] = (
        {name: UNSUPPORTED[name] for name in UNSUPPORTED if name != "verbosity"}
        | PromptFields.unsupported
        | {
            "logprobs": (False,),
            "max_tokens": (),
            "max_completion_tokens": (),
            "moderation": (),
            "n": (1,),
        }
    )

    model: Annotated[str, Field(min_length=1, max_length=512)]
    store: bool | None = None
    background: bool | None = None
    include: Annotated[list[Included], Field(max_length=64, fail_fast=True)] | None = None
    max_tool_calls: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_output_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=hard_limit("max_logprobs"))] | None = None
    context_management: Annotated[list[Management], Field(max_length=16)] | None = None
    metadata: Metadata | None = None
    prompt_cache_options: CacheOptions | None = None
    prompt_cache_retention: Word | None = None
    safety_identifier: Key | None = None
    service_tier: (
        Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None
    ) = None

    @classmethod
    def lengths(cls, bounds: Bounds) -> dict[str, int]:
        return {**PromptFields.lengths(bounds), **SamplingFields.lengths(bounds)}

    @property
    def included(self) -> frozenset[str]:
        return frozenset(self.include or ())
