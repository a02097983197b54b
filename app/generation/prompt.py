"""Prompts become token ids: rendered, tokenised, in a thread if that would block the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import assert_never

import msgspec

from app.engine.base import Engine, Rendered
from app.generation import limits
from app.reading.json_calls import answer_reader
from app.types import (
    ChatPrompt,
    GenerationRequest,
    Grammar,
    InfillPrompt,
    Message,
    Prompt,
    Sampling,
    TextPrompt,
    TokenPrompt,
    ToolUse,
)

_INLINE_CHARS = 4_000
"""About a millisecond on the loop. A hop to the thread costs a tenth of one, and waits its turn."""


class Job(msgspec.Struct, frozen=True):
    """One prompt of a request on its way into the engine."""

    prompt: Rendered
    sampling: Sampling
    """The request's, with what follows from this prompt: max_tokens, stop strings, grammar."""
    echo: str = ""
    """The prompt's text, if the answer begins with it."""
    use: ToolUse | None = None


class Preparer:
    """Turns prompts into token ids. One thread: the tokenizer's copy there must not be shared."""

    def __init__(self, engine: Engine, *, max_chars: int) -> None:
        self._engine = engine
        self._max_chars = max_chars
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prompt")

    async def prepare(self, request: GenerationRequest) -> list[Rendered]:
        """Raises InvalidRequest: a template that refuses, ids outside the vocabulary, too much."""
        chars = 0
        for prompt in request.prompts:
            chars += (own := _chars(prompt))
            limits.check_chars(own, self._max_chars, self._engine.info, param=prompt.param)
        if chars <= _INLINE_CHARS:
            return self._all(request)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._all, request)

    async def ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Only the token ids."""
        request = GenerationRequest(id="", prompts=tuple(prompts), sampling=Sampling())
        return [rendered.ids for rendered in await self.prepare(request)]

    def _all(self, request: GenerationRequest) -> list[Rendered]:
        return [self._one(prompt, request.sampling.grammar) for prompt in request.prompts]

    def _one(self, prompt: Prompt, grammar: Grammar | None) -> Rendered:
        match prompt:
            case TokenPrompt(ids, param):
                limits.check_ids(ids, self._engine.info, param=param)
                return _plain(ids, grammar)
            case TextPrompt(text):
                return _plain(self._engine.encode(text), grammar)
            case InfillPrompt(prefix, suffix):
                return _plain(self._engine.infill(prefix, suffix), grammar)
            case ChatPrompt():
                return self._engine.render(prompt, grammar)
            case _:
                assert_never(prompt)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def _plain(ids: list[int], grammar: Grammar | None) -> Rendered:
    return Rendered(ids, grammar=grammar, reader=answer_reader(grammar))


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
        chars += len(part.text)
    for call in message.calls:
        chars += len(call.id) + len(call.name) + len(call.arguments)
    return chars
