"""The vocabulary of a request: each dialect lowers its body to a `GenerationRequest`.

What comes back is in events.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import msgspec

Json: TypeAlias = dict[str, Any]
Role: TypeAlias = Literal["system", "developer", "user", "assistant", "tool"]


class Text(msgspec.Struct, frozen=True):
    """A part of a message: plain text."""

    text: str


Detail: TypeAlias = Literal["auto", "low", "high"]


class Picture(msgspec.Struct, frozen=True):
    """A part of a message: a picture as the client has sent it."""

    url: str
    """`data:` with the file in base64, or where it is."""
    param: str
    """The request field that holds it."""
    detail: Detail = "auto"
    """`low`: it is made smaller, so that it costs fewer tokens."""


Part: TypeAlias = Text | Picture
"""One part of a message. Other kinds of content become further members of this union."""


def pictures_of(prompt: Prompt) -> list[Picture]:
    """In their order."""
    if isinstance(prompt, TextPrompt):
        return list(prompt.pictures)
    if not isinstance(prompt, ChatPrompt):
        return []
    return [part for turn in prompt.messages for part in turn.parts if isinstance(part, Picture)]


def texts(parts: Iterable[Part]) -> list[str]:
    """Those of the parts that are text."""
    return [part.text for part in parts if isinstance(part, Text)]


class ToolCall(msgspec.Struct, frozen=True):
    """One complete call of a tool: in an answer, or in an earlier turn of the conversation."""

    id: str
    name: str
    arguments: str
    """JSON text. For a free-form tool: its input, unchanged."""
    freeform: bool = False


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of a conversation, before the model's template renders it."""

    role: Role
    parts: tuple[Part, ...] = ()
    """Empty: the turn has no content, such as an assistant turn that only calls tools."""
    name: str | None = None
    tool_call_id: str | None = None
    """In a tool turn: the call that it answers."""
    calls: tuple[ToolCall, ...] = ()
    """In an assistant turn. The arguments are the text of a JSON object."""
    reasoning: str | None = None
    """In an assistant turn: the thinking that preceded the answer."""


class Grammar(msgspec.Struct, frozen=True):
    """A constraint on the answer. It does not constrain the thinking that precedes the answer."""

    kind: Literal["json_schema", "regex", "choice", "ebnf", "lark", "structural_tag"]
    text: str
    param: str = "response_format"
    """The request field that set it."""
    parts: tuple[tuple[str, str], ...] = ()
    """Schemas that it was made of: the request field of each, and its text."""
    compiled: str | None = None
    """The same as the engine compiles it; None: it has not been tried yet."""


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How to choose tokens. None: use the value of the model's generation config."""

    max_tokens: int | None = None
    """None: up to the end of the context."""
    min_tokens: int = 0
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    """-1 disables it."""
    min_p: float | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    keep_stop: bool = False
    """The text ends with the stop string, or the stop token, at which it has ended."""
    logit_bias: dict[str, float] | None = None
    """Token id, as a decimal string (JSON keys are strings), to a bias in [-100, 100]."""
    seed: int | None = None
    grammar: Grammar | None = None
    thinking_budget: int | None = None
    """Tokens that the model may think, if it does; then it has to answer. None: no bound."""
    beam_width: int | None = None
    """Search with so many beams; the choices are the best of them. None: sample."""


class Scoring(msgspec.Struct, frozen=True):
    """Which log-probabilities to return: always those of the answer's tokens, and those of the
    prompt's from position `prompt_from` on."""

    top: int = 0
    """Number of alternatives at each position."""
    prompt_from: int | None = None
    param: str = "logprobs"
    """The request field that asks for them."""


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool that the model may call."""

    name: str
    description: str | None = None
    param: str = "tools"
    """The request field that holds its parameters."""
    parameters: Json | None = None
    """JSON Schema of the arguments. None: the tool takes none."""
    strict: bool = False
    """The arguments must follow the schema, even where the model need not call the tool."""
    freeform: bool = False
    """A custom tool: it takes one text. The model sees a function with one string, `input`."""


class ToolUse(msgspec.Struct, frozen=True, kw_only=True):
    """The tools of a request, and which of them the model may or must call."""

    tools: tuple[Tool, ...]
    allowed: tuple[str, ...]
    """Names of the tools that may be called; the model is shown all tools."""
    required: bool = False
    """The model must call at least one."""
    named: bool = False
    """The client named the one tool to call."""
    parallel: bool = True
    """The model may call several in one answer."""
    chars: int = 0
    """Roughly how many characters the tools add to the prompt."""

    @property
    def callable(self) -> tuple[Tool, ...]:
        return tuple(tool for tool in self.tools if tool.name in self.allowed)


class TextPrompt(msgspec.Struct, frozen=True):
    """Plain text. The tokenizer adds special tokens (BOS) as it is configured to."""

    text: str
    param: str
    special: bool = True
    """False: it adds none."""
    pictures: tuple[Picture, ...] = ()
    """The text has the model's own marker for each."""


class TokenPrompt(msgspec.Struct, frozen=True):
    """Token ids, used unchanged."""

    ids: list[int]
    param: str


class ChatPrompt(msgspec.Struct, frozen=True):
    """A conversation, rendered by the model's chat template."""

    messages: list[Message]
    param: str = "messages"
    tool_use: ToolUse | None = None
    effort: str | None = None
    """How much to think: `none`, `minimal`, `low`, `medium`, `high`, ..."""
    template_kwargs: dict[str, bool | str] = {}
    """Variables of the template, from the allow-list only."""
    continues: bool = False
    """The answer continues the last message, which is the assistant's."""
    begins_answer: bool = True
    """The template adds what an answer of the assistant begins with."""


class InfillPrompt(msgspec.Struct, frozen=True):
    """Text with a gap that the answer fills, for models trained to fill gaps."""

    prefix: str
    suffix: str
    param: str


Prompt: TypeAlias = TextPrompt | TokenPrompt | ChatPrompt | InfillPrompt


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What every dialect lowers its body to: one or more prompts, `n` choices of each.

    Choice `k` of prompt `p` has the index `p * n + k`.
    """

    id: str
    """32 hexadecimal digits. Never the client's own id: the engine aborts by prefix of an id."""
    prompts: tuple[Prompt, ...]
    sampling: Sampling
    n: int = 1
    echo: bool = False
    """The answer begins with the prompt's text."""
    scoring: Scoring | None = None
    token_ids: bool = False
    """Send `TokenIds` events."""
    progress: bool = False
    """Send `Progress` events."""
    clamps: bool = False
    """`max_tokens` is a ceiling: what does not fit into the context is cut off, not refused."""
    whole: bool = False
    """The answer is not streamed to the client, so it may arrive in few pieces."""
    adapter: str | None = None
    """The adapter that answers: its name, and in the served model its id in the engine."""
    cache_salt: str = ""
    """Its prompts share a prefix cache only with those of the same salt."""
    session: str = ""
    """The conversation that it belongs to, as the client names it."""
    cache_scope: str = ""
    """The part of the prefix cache that its prompts are in, which follows from these two and from
    whose request it is."""
