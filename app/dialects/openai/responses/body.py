"""The body of a Responses request: every field is honoured, echoed or refused by name.

Source: OpenAI's OpenAPI document of 2026-08 and openai-python 3.57; the sampling fields beyond
OpenAI's as chat takes them.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    """The form of an answer: flat, where chat nests it under `json_schema`."""

    type: Literal["text", "json_object", "json_schema"]
    """`text`: any text; `json_object`: any JSON object; `json_schema`: JSON that follows
    `schema`."""
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")] | None = None
    """Name of the schema, required with `json_schema`. The model is not shown it."""
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    """The JSON schema that the answer follows, required with `json_schema`. A keyword that cannot
    be enforced is refused, unless the schema has `"x-best-effort": true`."""
    description: Annotated[str, Field(max_length=8192)] | None = None
    """What the schema is for. Repeated in the answer, and not shown to the model."""
    strict: bool | None = None
    """Repeated in the answer, without effect: the schema is always enforced."""


class TextOptions(Body):
    format: TextFormat | None = None
    """Form of the answer. Default: text."""
    verbosity: Literal["low", "medium", "high"] | None = None
    """How long the answer shall be. Repeated in the answer, without effect."""


class ReasoningOptions(Body):
    effort: Effort | None = None
    """How much the model thinks before it answers; `none` is off. The chat template decides what
    follows; an effort that it refuses becomes the nearest one that it takes."""
    summary: Summary | None = None
    """Any value shows the thinking, whole, as a summary instead of as `reasoning_text`.
    `RESPONSES_REASONING` takes precedence."""
    generate_summary: Summary | None = None
    """The older name of `summary`, which takes precedence."""
    context: Literal["auto", "current_turn", "all_turns"] | None = None
    """`current_turn` leaves out the thinking before the last message of the user; the others keep
    all of it."""
    mode: Word | None = None
    """Repeated in the answer, without effect."""
    enabled: bool | None = None
    """OpenRouter's switch for the thinking, honoured as far as the chat template can. It takes
    precedence over `enable_thinking`."""
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """OpenRouter's bound: most tokens of thinking; then the model has to answer. Refused for a
    model whose thinking ends with no marker of its own."""


class CacheOptions(Body):
    unsupported: ClassVar[Unsupported] = {"prewarm": (False,)}


class Management(Body):
    type: Literal["compaction"]
    """Kind of the management. Without effect: conversations are not compacted here."""
    compact_threshold: Annotated[int, Field(ge=1)] | None = None
    """Number of tokens from which to compact. Without effect."""


class ConversationId(Body):
    id: Key
    """Id of the conversation, from `/v1/conversations`."""


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
    """What to answer: a text, or up to `MAX_MESSAGES` items. Required, unless earlier items come
    from `previous_response_id` or `conversation`."""
    instructions: str | None = None
    """The first system message. With the system and developer messages at the beginning of `input`
    it is one message."""
    previous_response_id: Key | None = None
    """Id of a kept response whose input and output precede `input`, but not its instructions, tools
    and settings. Refused beside `conversation`."""
    conversation: (
        Annotated[
            Annotated[str, Field(max_length=512), Tag("~id")]
            | Annotated[ConversationId, Tag("~object")],
            Discriminator(lambda value: "~id" if isinstance(value, str) else "~object"),
        ]
        | None
    ) = None
    """Conversation whose items precede `input`, and which input and output are added to: its id, or
    an object with it. One response at a time."""
    tools: Annotated[list[AnyTool], Field(fail_fast=True)] | None = None
    """Tools that the model may call, at most `MAX_TOOLS`. OpenAI's own that the answer would depend
    on, such as `file_search`, are refused."""
    tool_choice: ToolChoice | None = None
    """`none`, `auto`, `required` (call at least one), one tool to call, or the tools that may be
    called. Default: `auto`."""
    parallel_tool_calls: bool | None = None
    """Whether one answer may have several calls. Default: true."""
    text: TextOptions | None = None
    """Form of the answer."""
    reasoning: ReasoningOptions | None = None
    """How much the model thinks, and how the thinking is shown."""
    truncation: Literal["auto", "disabled"] | None = None
    """Without effect: an input that does not fit into the context is refused, not cut."""
    enable_thinking: bool | None = None
    """Switch the thinking on or off, as far as the model's chat template can. Default: what the
    template does."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables of the model's chat template, at most 16: names in `ALLOWED_TEMPLATE_KWARGS`,
    values booleans or words of at most 64 characters."""

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
    """A name from `/v1/models` (the model, an alias or an adapter), `default` or `sglang`. Others
    are 404, unless the operator takes any name. Default: the served model."""


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
            "use_beam_search": (False,),
            "length_penalty": (1.0, 1),
            "early_stopping": (False, "never"),
        }
    )
    descriptions: ClassVar[Mapping[str, str]] = {
        "stream_options": "Refused without `stream: true`, and without effect beside it: the last "
        "event has the usage.",
        "prompt_cache_key": "The client's name for the conversation, repeated in the answer. It "
        "separates prefix caches with `CACHE_SCOPE=session`.",
        "user": "The client's id of its user. Repeated in the answer, without effect.",
    }

    model: Annotated[str, Field(min_length=1, max_length=512)]
    """A name from `/v1/models` (the model, an alias or an adapter), `default` or `sglang`. Others
    are 404, unless the operator takes any name."""
    store: bool | None = None
    """Keep the response, if the server keeps any (`STORE_URL`); the answer says whether it was
    kept. Default: true."""
    background: bool | None = None
    """Generate the response without a connection, at most `MAX_BACKGROUND` at a time. It is always
    kept: refused with `store: false`. Default: false."""
    include: Annotated[list[Included], Field(max_length=64, fail_fast=True)] | None = None
    """What else to return: `message.output_text.logprobs` and `reasoning.encrypted_content` are
    honoured, the others have no effect."""
    max_tool_calls: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """Most calls of OpenAI's own tools. Repeated in the answer, without effect: there are none
    here."""
    max_output_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """Most tokens of the answer, thinking included; with the prompt at most the context. Default:
    up to the end of the context."""
    top_logprobs: Annotated[int, Field(ge=0, le=hard_limit("max_logprobs"))] | None = None
    """Number of likeliest alternatives to return for each token, with
    `message.output_text.logprobs` in `include`. Default: 0."""
    context_management: Annotated[list[Management], Field(max_length=16)] | None = None
    """When to compact the conversation. Without effect."""
    metadata: Metadata | None = None
    """The client's own notes, at most 16 names and values. Repeated in the answer and kept with
    it."""
    prompt_cache_options: CacheOptions | None = None
    """Options of OpenAI's prompt cache. Without effect; `prewarm: true` is refused."""
    prompt_cache_retention: Word | None = None
    """How long OpenAI would keep the prompt in its cache. Repeated in the answer, without
    effect."""
    safety_identifier: Key | None = None
    """The client's id of its user. Repeated in the answer, without effect."""
    service_tier: (
        Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None
    ) = None
    """Class of the service. Without effect: the answer always has `default`."""

    @classmethod
    def lengths(cls, bounds: Bounds) -> dict[str, int]:
        return {**PromptFields.lengths(bounds), **SamplingFields.lengths(bounds)}

    @property
    def included(self) -> frozenset[str]:
        return frozenset(self.include or ())
