"""Prompts become token ids: rendering, tokenising, off the event loop where it would be felt."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import assert_never

from app.core import limits
from app.engine.base import Engine, Rendered
from app.types import ChatPrompt, Message, Prompt, TextPrompt, TokenPrompt

_INLINE_CHARS = 4_000
"""About a millisecond on the loop. A hop to the thread costs a tenth of one, and waits its turn."""


class Preparer:
    """Turns prompts into token ids. One thread: the tokenizer's copy there must not be shared."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prompt")

    async def ids(self, prompts: Sequence[Prompt]) -> list[Rendered]:
        """Raises InvalidRequest: a template that refuses, ids outside the vocabulary."""
        if sum(map(_chars, prompts)) <= _INLINE_CHARS:
            return self._all(prompts)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._all, prompts)

    def _all(self, prompts: Sequence[Prompt]) -> list[Rendered]:
        return [self._one(prompt) for prompt in prompts]

    def _one(self, prompt: Prompt) -> Rendered:
        match prompt:
            case TokenPrompt(ids, param):
                limits.check_ids(ids, self._engine.info, param=param)
                return Rendered(ids)
            case TextPrompt(text):
                return Rendered(self._engine.encode(text))
            case ChatPrompt(messages):
                return self._engine.render(messages)
            case _:
                assert_never(prompt)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def _chars(prompt: Prompt) -> int:
    match prompt:
        case TokenPrompt():
            return 0
        case TextPrompt(text):
            return len(text)
        case ChatPrompt(messages):
            return sum(map(_message_chars, messages))
        case _:
            assert_never(prompt)


def _message_chars(message: Message) -> int:
    content = message.get("content")
    if isinstance(content, list):
        return sum(len(part["text"]) for part in content)
    return len(content or "")
