"""The vocabulary of a request: each dialect lowers its body to a `GenerationRequest`.

What comes back is in events.py.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

Json: TypeAlias = dict[str, Any]
Role: TypeAlias = Literal["system", "developer", "user", "assistant", "tool"]


class Text(msgspec.Struct, frozen=True):
    """A part of a message: plain text."""

    text: str


Part: TypeAlias = Text
"""One part of a message. Other kinds of content become further members of this union."""


class ToolCall(msgspec.Struct, frozen=True):
    """One complete call of a tool: in an answer, or in an earlier turn of the conversation."""

    id: str
    name: str
    arguments: str
    """JSON text; of a free-form tool its input as it is."""
    freeform: bool = False


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of a conversation, before the model's template renders it."""

    role: Role
    parts: tuple[Part, ...] = ()
    """Empty: the turn has no content, such as an assistant's that only calls tools."""
    name: str | None = None
    tool_call_id: str | None = None
    """Of a tool's turn: the call that it answers."""
    calls: tuple[ToolCall, ...] = ()
    """Of an assistant's turn. The arguments are the text of a JSON object."""
    reasoning: str | None = None
    """Of an assistant's turn: what it thought before it answered."""


class Grammar(msgspec.Struct, frozen=True):
    """What the answer must look like; thinking, if the model does, stays free."""

    kind: Literal["json_schema", "regex", "ebnf", "structural_tag"]
    text: str
    param: str = "response_format"
    """The field that asked for it."""
    covers_thinking: bool = False
    """The grammar describes the whole turn, thinking included."""


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How to choose tokens. None: as the model's own generation config says."""

    max_tokens: int | None = None
    """None: up to the end of the context."""
    min_tokens: int = 0
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    """-1 switches it off."""
    min_p: float | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    logit_bias: dict[str, float] | None = None
    """Token id, as the decimal string the wire has, to a bias in [-100, 100]."""
    seed: int | None = None
    grammar: Grammar | None = None


class Scoring(msgspec.Struct, frozen=True):
    """Which log-probabilities are wanted: of the answer's tokens always, of the prompt's from the
    position `prompt_from` on."""

    top: int = 0
    """Alternatives at each position."""
    prompt_from: int | None = None


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """Something that the model may call."""

    name: str
    description: str | None = None
    parameters: Json | None = None
    """JSON Schema of the arguments. None: it takes none."""
    strict: bool = False
    """The arguments must follow the schema, even where the model is free to call or not."""
    freeform: bool = False
    """A custom tool: it takes one text. To the model it is a function with one string, `input`."""


class ToolUse(msgspec.Struct, frozen=True, kw_only=True):
    """The tools of a request and what the model has to do with them."""

    tools: tuple[Tool, ...]
    allowed: tuple[str, ...]
    """Names that may be called; the model is shown all."""
    required: bool = False
    """It must call at least one."""
    named: bool = False
    """The client named the one to be called."""
    parallel: bool = True
    """It may call several in one answer."""
    chars: int = 0
    """What showing them to the model adds to the prompt, about."""

    @property
    def callable(self) -> tuple[Tool, ...]:
        return tuple(tool for tool in self.tools if tool.name in self.allowed)


class TextPrompt(msgspec.Struct, frozen=True):
    """Plain text, tokenised with the model's special tokens (BOS) as its tokenizer says."""

    text: str
    param: str


class TokenPrompt(msgspec.Struct, frozen=True):
    """Token ids, used as they are."""

    ids: list[int]
    param: str


class ChatPrompt(msgspec.Struct, frozen=True):
    """A conversation, rendered by the model's own chat template."""

    messages: list[Message]
    param: str = "messages"
    tool_use: ToolUse | None = None
    effort: str | None = None
    """How much the model shall think: `none`, `minimal`, `low`, `medium`, `high`, ..."""
    template_kwargs: dict[str, bool | str] = {}
    """Switches of the template, from the allow-list only."""
    continues: bool = False
    """The answer goes on from the last message, the assistant's, instead of beginning anew."""


class InfillPrompt(msgspec.Struct, frozen=True):
    """Text with a gap that the answer fills, for models trained on that."""

    prefix: str
    suffix: str
    param: str


Prompt: TypeAlias = TextPrompt | TokenPrompt | ChatPrompt | InfillPrompt


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What every dialect becomes: one or more prompts, `n` choices of each.

    Choice `k` of prompt `p` has the index `p * n + k`.
    """

    id: str
    """32 hexadecimal digits. Never the client's: the engine aborts by prefix of its id."""
    prompts: tuple[Prompt, ...]
    sampling: Sampling
    n: int = 1
    echo: bool = False
    """The prompt's text comes first, as a part of the answer."""
    scoring: Scoring | None = None
    token_ids: bool = False
    """`TokenIds` events are wanted."""
    progress: bool = False
    """`Progress` events are wanted."""
    whole: bool = False
    """Nobody reads the answer as it comes: it may come in few pieces."""
