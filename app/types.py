"""The vocabulary: a dialect lowers its body to a `GenerationRequest`, events are what comes back.

Events travel in *beats*: a list of everything that became known at the same moment, usually one
engine chunk's worth. A beat is written to the client at once, so a finish, its usage and the end of
the stream cost one write. They are msgspec structs because a few are made for every token (a frozen
dataclass takes five times as long to build).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from typing import Any, Literal, TypeAlias, assert_never

import msgspec

Json: TypeAlias = dict[str, Any]
FinishReason: TypeAlias = Literal["stop", "length"]
Message: TypeAlias = dict[str, Any]
"""One chat message as the model's template sees it: `role` and `content`, the rest optional."""


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


Prompt: TypeAlias = TextPrompt | TokenPrompt | ChatPrompt


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What every dialect becomes: one or more prompts, `n` choices of each.

    Choice `k` of prompt `p` has the index `p * n + k`.
    """

    id: str
    """32 hexadecimal digits. Never the client's: the engine aborts by prefix of its id."""
    prompts: tuple[Prompt, ...]
    sampling: Sampling
    n: int = 1


class Started(msgspec.Struct, frozen=True, gc=False):
    """The engine has accepted every prompt. Exactly one, first."""

    prompt_tokens: int


class TextDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of the answer; the pieces of one choice, concatenated, are its text."""

    text: str
    index: int


class Finished(msgspec.Struct, frozen=True, gc=False):
    """Choice `index` has ended; nothing more of it follows. Once per choice.

    `matched` is the stop string or the stop token's id that ended it, if one did.
    """

    reason: FinishReason
    index: int
    matched: str | int | None = None


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens, as the engine counted them. Exactly one, last. Each prompt is counted once."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int = 0


Event: TypeAlias = Started | TextDelta | Finished | Usage
Beat: TypeAlias = list[Event]
Events: TypeAlias = AsyncGenerator[Beat, None]


class Choice(msgspec.Struct, frozen=True):
    """One finished choice."""

    index: int
    text: str
    finish_reason: FinishReason
    matched: str | int | None = None


class Result(msgspec.Struct, frozen=True):
    """A whole answer; choices in the order of their index."""

    choices: tuple[Choice, ...]
    usage: Usage


async def fold(events: AsyncIterable[Beat]) -> Result:
    """Drain a stream into the whole answer. There is no other way to one."""
    texts: dict[int, list[str]] = {}
    finished: dict[int, Finished] = {}
    usage: Usage | None = None
    async for beat in events:
        for event in beat:
            match event:
                case TextDelta(text, index):
                    texts.setdefault(index, []).append(text)
                case Finished(index=index):
                    finished[index] = event
                case Usage():
                    usage = event
                case Started():
                    pass
                case _:
                    assert_never(event)
    if usage is None:
        raise RuntimeError("the event stream ended without its usage")
    return Result(
        choices=tuple(
            Choice(index, "".join(texts.get(index, ())), end.reason, end.matched)
            for index, end in sorted(finished.items())
        ),
        usage=usage,
    )
