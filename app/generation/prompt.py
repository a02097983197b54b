"""Prompts become token ids: rendering, tokenising, off the event loop where it would be felt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import assert_never

import msgspec

from app.engine.base import Engine
from app.generation import limits
from app.reading.pieces import Reader, answer_reader
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
)  # fmt: skip

_INLINE_CHARS = 4_000
"""About a millisecond on the loop. A hop to the thread costs a tenth of one, and waits its turn."""


class Prepared(msgspec.Struct):
    """One prompt, ready for the engine, and how its answers are to be made and read."""

    ids: list[int]
    stop: tuple[str, ...] = ()
    grammar: Grammar | None = None
    gates_grammar: bool = False
    keep_special_tokens: bool = False
    reader: Callable[[], Reader | None] | None = None
    """Makes the reader of one choice; None: its text is the answer as it stands."""


class Preparer:
    """Turns prompts into token ids. One thread: the tokenizer's copy there must not be shared."""

    def __init__(self, engine: Engine, *, max_chars: int) -> None:
        self._engine = engine
        self._max_chars = max_chars
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prompt")

    async def prepare(self, request: GenerationRequest) -> list[Prepared]:
        """Raises InvalidRequest: a template that refuses, ids outside the vocabulary, too much."""
        chars = 0
        for prompt in request.prompts:
            chars += (own := _chars(prompt))
            limits.check_chars(own, self._max_chars, self._engine.info, param=prompt.param)
        if chars <= _INLINE_CHARS:
            return self._all(request)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._all, request)

    async def ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Only the token ids of prompts that are text or ids."""
        request = GenerationRequest(id="", prompts=tuple(prompts), sampling=Sampling())
        return [each.ids for each in await self.prepare(request)]

    def _all(self, request: GenerationRequest) -> list[Prepared]:
        return [self._one(prompt, request.sampling.grammar) for prompt in request.prompts]

    def _one(self, prompt: Prompt, grammar: Grammar | None) -> Prepared:
        match prompt:
            case TokenPrompt(ids, param):
                limits.check_ids(ids, self._engine.info, param=param)
                return _plain(ids, grammar)
            case TextPrompt(text):
                return _plain(self._engine.encode(text), grammar)
            case InfillPrompt(prefix, suffix):
                return _plain(self._engine.infill(prefix, suffix), grammar)
            case ChatPrompt():
                return self._chat(prompt, grammar)
            case _:
                assert_never(prompt)

    def _chat(self, prompt: ChatPrompt, grammar: Grammar | None) -> Prepared:
        rendered = self._engine.render(prompt, grammar)
        return Prepared(
            rendered.ids,
            stop=rendered.stop,
            grammar=rendered.grammar,
            gates_grammar=rendered.gates_grammar,
            keep_special_tokens=rendered.keep_special_tokens,
            reader=rendered.reader,
        )

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def _plain(ids: list[int], grammar: Grammar | None) -> Prepared:
    return Prepared(ids, grammar=grammar, reader=answer_reader(grammar))


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
