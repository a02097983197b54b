"""Prompts become token ids: rendered, tokenised, in a thread if that would block the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import assert_never

import msgspec

from app.engine.base import Engine, Rendered
from app.errors import InvalidRequest
from app.generation import limits
from app.generation.prefixes import place_of
from app.generation.turns import Turns
from app.media.pictures import Pictures
from app.types import (
    ChatPrompt,
    GenerationRequest,
    Grammar,
    InfillPrompt,
    Message,
    Prompt,
    Sampling,
    Text,
    TextPrompt,
    TokenPrompt,
    ToolUse,
    pictures_of,
)

_INLINE_CHARS = 4_000
"""About a millisecond on the loop. A hop to the thread costs a tenth of one, and waits its turn."""
_SLICE_CHARS = 50_000
"""Prompts of a request that the thread takes at a time, about ten milliseconds; one at least."""
_OVERTAKEN_TOKENS_PER_S = 20_000
_OVERTAKEN_CHARS_PER_S = 10_000
"""A request is due a second later for so many characters: short ones overtake it until then."""


class Job(msgspec.Struct, frozen=True):
    """One prompt of a request on its way into the engine."""

    prompt: Rendered
    sampling: Sampling
    """The request's, with what follows from this prompt: max_tokens, stop strings, grammar."""
    echo: str = ""
    """The prompt's text, if the answer begins with it."""
    use: ToolUse | None = None

    def constrained(self, grammar: Grammar) -> Job:
        """With the grammar as the engine compiles it. It decides where the answer ends, so that a
        least number of tokens has no place beside it; nor has `ignore_eos`: after the grammar's end
        nothing but end tokens would follow."""
        sampling = msgspec.structs.replace(
            self.sampling, grammar=grammar, min_tokens=0, ignore_eos=False
        )
        return msgspec.structs.replace(self, sampling=sampling)


class Preparer:
    """Turns prompts into token ids. One thread: the tokenizer's copy there must not be shared.

    Requests take turns at it, a slice of their prompts each time, the short requests first: a
    client with megabytes of text does not hold up the others.
    """

    def __init__(
        self, engine: Engine, *, max_chars: int, limit: int, pictures: Pictures | None
    ) -> None:
        """`limit`: tokens of prompt and answer together. `pictures`: None if none are taken."""
        self._engine = engine
        self._max_chars = max_chars
        self._limit = limit
        self._pictures = pictures
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prompt")
        self._turns = Turns()

    async def prepare(
        self, request: GenerationRequest, hold: AsyncExitStack | None = None
    ) -> list[Rendered]:
        """Raises InvalidRequest: a template that refuses, ids outside the vocabulary, too much.

        What pictures take counts as long as `hold` is open. None: there are no pictures.
        """
        chars = 0
        for prompt in request.prompts:
            chars += (own := _chars(prompt))
            limits.check_chars(own, self._max_chars, self._engine.info, param=prompt.param)
        grammar = request.sampling.grammar
        if hold is not None and any(map(pictures_of, request.prompts)):
            return [await self._seen(prompt, grammar, chars, hold) for prompt in request.prompts]
        if chars <= _INLINE_CHARS:
            return self._several(request.prompts, grammar)
        loop = asyncio.get_running_loop()
        due = loop.time() + chars / _OVERTAKEN_CHARS_PER_S
        rendered: list[Rendered] = []
        for prompts in _slices(request.prompts):
            async with self._turns.turn(due):
                work = loop.run_in_executor(self._thread, self._several, prompts, grammar)
                rendered += await work
        return rendered

    async def _seen(
        self, prompt: Prompt, grammar: Grammar | None, chars: int, hold: AsyncExitStack
    ) -> Rendered:
        """A prompt with its pictures."""
        pictures, info = pictures_of(prompt), self._engine.info
        loop = asyncio.get_running_loop()
        async with self._turns.turn(loop.time() + chars / _OVERTAKEN_CHARS_PER_S):
            rendered = await loop.run_in_executor(self._thread, self._one, prompt, grammar)
        if self._pictures is None or not pictures:
            return rendered
        if sorted(rendered.pictures) != [*range(len(pictures))]:
            raise InvalidRequest(
                "The model's chat template has no place for all pictures of this conversation.",
                param=pictures[0].param,
            )
        limits.check_markers(rendered.text, len(pictures), info, param=prompt.param)

        def check(sizes: list[tuple[int, int]]) -> None:
            tokens = self._engine.picture_tokens(sizes)
            if tokens is not None:
                # In the place of one marker each.
                length = len(rendered.ids) - len(tokens) + sum(tokens)
                limits.check_length(length, info, self._limit, param=prompt.param)

        decoded = await self._pictures.decoded(pictures, check, hold)
        seen = await self._engine.see(rendered, decoded, param=pictures[0].param)
        if seen.inputs is not None:
            hold.callback(seen.inputs.drop)
        return seen

    async def place(self, at: int, ids: Sequence[int], prompt: Prompt) -> str:
        """As `place_of`, in the thread."""
        messages = prompt.messages if isinstance(prompt, ChatPrompt) else ()
        loop = asyncio.get_running_loop()
        async with self._turns.turn(loop.time() + at / _OVERTAKEN_TOKENS_PER_S):
            return await loop.run_in_executor(
                self._thread, place_of, at, ids, messages, self._engine.decode
            )

    async def ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Only the token ids."""
        request = GenerationRequest(id="", prompts=tuple(prompts), sampling=Sampling())
        async with AsyncExitStack() as hold:
            return [rendered.ids for rendered in await self.prepare(request, hold)]

    def _several(self, prompts: Sequence[Prompt], grammar: Grammar | None) -> list[Rendered]:
        return [self._one(prompt, grammar) for prompt in prompts]

    def _one(self, prompt: Prompt, grammar: Grammar | None) -> Rendered:
        match prompt:
            case TokenPrompt(ids, param):
                limits.check_ids(ids, self._engine.info, param=param)
                return _plain(ids, grammar)
            case TextPrompt(text, special=special, pictures=pictures):
                ids = self._engine.encode(text, special=special)
                order = tuple(range(len(pictures)))
                return Rendered(ids, grammar=grammar, text=text if pictures else "", pictures=order)
            case InfillPrompt(prefix, suffix):
                return _plain(self._engine.infill(prefix, suffix), grammar)
            case ChatPrompt():
                return self._engine.render(prompt, grammar)
            case _:
                assert_never(prompt)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def _plain(ids: list[int], grammar: Grammar | None) -> Rendered:
    return Rendered(ids, grammar=grammar)


def _slices(prompts: Sequence[Prompt]) -> Iterator[list[Prompt]]:
    """The prompts in order, in slices of at most _SLICE_CHARS or one prompt."""
    part: list[Prompt] = []
    room = _SLICE_CHARS
    for prompt in prompts:
        own = _chars(prompt)
        if part and own > room:
            yield part
            part, room = [], _SLICE_CHARS
        part.append(prompt)
        room -= own
    if part:
        yield part


def _chars(prompt: Prompt) -> int:
    match prompt:
        case TokenPrompt():
            return 0
        case TextPrompt(text):
            return len(text)
        case InfillPrompt(prefix, suffix):
            return len(prefix) + len(suffix)
        case ChatPrompt(messages, tool_use=use):
            return sum(map(_message_chars, messages)) + (use.chars if use else 0)
        case _:
            assert_never(prompt)


def _message_chars(message: Message) -> int:
    chars = len(message.reasoning or "")
    for part in message.parts:
        if part.__class__ is Text:
            chars += len(part.text)
    for call in message.calls:
        chars += len(call.id) + len(call.name) + len(call.arguments)
    return chars
