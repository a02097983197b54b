"""What the model returns: events, beats of events, and the fold of a stream into one result.

Events travel in *beats*: a list of everything that became known at the same moment, usually from
one engine chunk. A beat is written to the client at once, so a finish, its usage and the end of the
stream cost one write. Events are msgspec structs because a few are made for every token (a
frozen dataclass takes five times as long to build).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from typing import Literal, TypeAlias, assert_never

import msgspec

from app.types import ToolCall

EndReason: TypeAlias = Literal["stop", "length"]
"""Why the engine ended a choice."""


FinishReason: TypeAlias = Literal["stop", "length", "tool_calls"]


class Token(msgspec.Struct, frozen=True, gc=False):
    """A token of the vocabulary and its log-probability at its position.

    `raw` holds its bytes: a character may be spread over several tokens.
    """

    id: int
    raw: bytes
    logprob: float
    """Natural logarithm, finite, at least -9999."""

    @property
    def text(self) -> str:
        return self.raw.decode(errors="replace")


class ScoredToken(msgspec.Struct, frozen=True):
    """A token, and its alternatives, the likeliest first.

    `scored` is False for the first token of a prompt: no token precedes it.
    """

    token: Token
    top: tuple[Token, ...] = ()
    scored: bool = True
    offset: int = 0
    """Where the token begins in the choice's text, in characters."""


class Started(msgspec.Struct, frozen=True, gc=False):
    """The engine has accepted every prompt. Exactly one per stream, first."""

    prompt_tokens: int
    """Of all prompts."""
    cached_tokens: int = 0
    """Prompt tokens found in the prefix cache, for the prompt that was started first. With several
    prompts or choices only `Usage` has the sum."""


class TextDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of the answer; the pieces of one choice, concatenated, are its text."""

    text: str
    index: int


class ReasoningDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of the thinking that precedes the answer."""

    text: str
    index: int


class ToolCallStarted(msgspec.Struct, frozen=True, gc=False):
    """The model calls a tool. `call` counts this choice's calls from 0; all pieces of one call come
    before the next call begins."""

    call: int
    id: str
    name: str
    index: int
    freeform: bool = False


class ToolCallDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of a call's arguments: JSON text. For a free-form tool: its input, unchanged."""

    call: int
    arguments: str
    index: int
    freeform: bool = False


class Scored(msgspec.Struct, frozen=True):
    """The tokens behind the next event of this choice, with their log-probabilities."""

    tokens: tuple[ScoredToken, ...]
    index: int
    of_prompt: bool = False


class TokenIds(msgspec.Struct, frozen=True):
    """The ids behind the next event of this choice."""

    ids: tuple[int, ...]
    index: int


class Finished(msgspec.Struct, frozen=True, gc=False):
    """Choice `index` has ended; no event of it follows. Once per choice.

    `matched` is the stop string or the stop token's id that ended it, if one did.
    """

    reason: FinishReason
    index: int
    matched: str | int | None = None
    cut_call: bool = False
    """The last call was cut off: its arguments are not complete."""


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Token counts of the engine. Exactly one per stream, last. Each prompt is counted once."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int = 0
    picture_tokens: int = 0
    """Of the prompts'."""


class Progress(msgspec.Struct, frozen=True, gc=False):
    """Usage so far, before the next event of choice `index`."""

    usage: Usage
    index: int
    choice_tokens: int
    """Tokens of this choice."""
    prompt_tokens: int = 0
    """Of this choice's prompt."""
    cached_tokens: int = 0
    """Of this choice's prompt."""


Event: TypeAlias = (
    Started
    | TextDelta
    | ReasoningDelta
    | ToolCallStarted
    | ToolCallDelta
    | Scored
    | TokenIds
    | Progress
    | Finished
    | Usage
)


Beat: TypeAlias = list[Event]


Events: TypeAlias = AsyncGenerator[Beat, None]


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One finished choice."""

    index: int
    text: str
    finish_reason: FinishReason
    matched: str | int | None = None
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()
    token_ids: tuple[int, ...] = ()
    completion_tokens: int = 0
    """This and the next two are set only if the request asked for `Progress`."""
    prompt_tokens: int = 0
    cached_tokens: int = 0


class Result(msgspec.Struct, frozen=True):
    """A whole answer; choices ordered by index."""

    choices: tuple[Choice, ...]
    usage: Usage


class _ChoiceParts:
    """One choice while its events arrive."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.calls: list[ToolCallStarted] = []
        self.arguments: list[list[str]] = []
        self.token_ids: list[int] = []
        self.progress: Progress | None = None
        self.end: Finished | None = None

    def choice(self, index: int) -> Choice:
        if self.end is None:
            raise RuntimeError(f"choice {index} was not finished")
        progress = self.progress
        return Choice(
            index=index,
            text="".join(self.text),
            finish_reason=self.end.reason,
            matched=self.end.matched,
            reasoning="".join(self.reasoning),
            calls=tuple(
                ToolCall(call.id, call.name, "".join(arguments), call.freeform)
                for call, arguments in zip(self.calls, self.arguments, strict=True)
            ),
            token_ids=tuple(self.token_ids),
            completion_tokens=progress.choice_tokens if progress else 0,
            prompt_tokens=progress.prompt_tokens if progress else 0,
            cached_tokens=progress.cached_tokens if progress else 0,
        )


async def fold(
    events: AsyncIterable[Beat], keep_scores: Callable[[Scored], None] | None = None
) -> Result:
    """Consume a stream into the whole answer: the only way a whole answer is made.

    `keep_scores` gets the log-probabilities as they come. They are not part of the result: those of
    a long answer are millions of objects.
    """
    choices: defaultdict[int, _ChoiceParts] = defaultdict(_ChoiceParts)
    usage: Usage | None = None
    async for beat in events:
        for event in beat:
            match event:
                case TextDelta(text, index):
                    choices[index].text.append(text)
                case ReasoningDelta(text, index):
                    choices[index].reasoning.append(text)
                case ToolCallStarted(index=index):
                    choices[index].calls.append(event)
                    choices[index].arguments.append([])
                case ToolCallDelta(call, arguments, index):
                    choices[index].arguments[call].append(arguments)
                case Scored():
                    if keep_scores is not None:
                        keep_scores(event)
                case TokenIds(ids, index):
                    choices[index].token_ids.extend(ids)
                case Progress(index=index):
                    choices[index].progress = event
                case Finished(index=index):
                    choices[index].end = event
                case Usage():
                    usage = event
                case Started():
                    pass
                case _:
                    assert_never(event)
    if usage is None:
        raise RuntimeError("the event stream ended without its usage")
    return Result(
        choices=tuple(parts.choice(index) for index, parts in sorted(choices.items())),
        usage=usage,
    )
