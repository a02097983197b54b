"""Prompts become token ids: rendering, tokenising, off the event loop where it would be felt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, assert_never

from app.core import limits
from app.engine.base import Engine, Rendered
from app.types import ChatPrompt, Message, Prompt, TextPrompt, TokenPrompt

_Given = TypeVar("_Given")
_Made = TypeVar("_Made")

_INLINE_CHARS = 4_000
"""About a millisecond on the loop. A hop to the thread costs a tenth of one, and waits its turn."""


class Preparer:
    """Turns prompts into token ids. One thread: the tokenizer's copy there must not be shared."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prompt")

    async def ids(self, prompt: Prompt) -> Rendered:
        """Raises InvalidRequest: a template that refuses, ids outside the vocabulary."""
        match prompt:
            case TokenPrompt(ids, param):
                limits.check_ids(ids, self._engine.info, param=param)
                return Rendered(ids)
            case TextPrompt(text):
                if len(text) <= _INLINE_CHARS:
                    return Rendered(self._engine.encode(text))
                return Rendered(await self._aside(self._engine.encode, text))
            case ChatPrompt(messages):
                if sum(map(_chars, messages)) <= _INLINE_CHARS:
                    return self._engine.render(messages)
                return await self._aside(self._engine.render, messages)
            case _:
                assert_never(prompt)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _aside(self, work: Callable[[_Given], _Made], given: _Given) -> _Made:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, given)


def _chars(message: Message) -> int:
    content = message.get("content")
    if isinstance(content, list):
        return sum(len(part["text"]) for part in content)
    return len(content or "")
