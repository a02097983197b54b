"""Servers for the page: in a thread, with an engine that answers by what it is asked."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

from app.engine.base import Question, Rendered
from app.engine.scripted import Step
from app.lifecycle import Phase
from app.reading.json_calls import MarkedCalls
from app.reading.pieces import Chain, Piece, Said, Thought
from app.types import ChatPrompt, Grammar
from tests.support.scripted import ScriptedEngine
from tests.support.serving import HANGS_S, Running, serve

SAID = "#said:not(.hidden)"
CALL = '<tool_call>{"name": "get_weather", "arguments": {"city": "Oslo"}}</tool_call>'


class _Thinking:
    """Reads thinking up to a chunk that is `</think>`, if the first chunk is `<think>`."""

    def __init__(self) -> None:
        self._thinks = False

    def feed(self, text: str) -> list[Piece]:
        if text in ("<think>", "</think>"):
            self._thinks = text == "<think>"
            return []
        return [Thought(text)] if self._thinks else [Said(text)]

    def finish(self) -> list[Piece]:
        return []


class Answers(ScriptedEngine):
    """Answers each prompt by `script(prompt)`."""

    def __init__(self, script: Callable[[str], Iterable[Step]], **info: Any) -> None:
        super().__init__(context_length=4_000_000, max_prompt_tokens=3_000_000, **info)
        self._by_prompt = script

    def render(self, chat: ChatPrompt, grammar: Grammar | None) -> Rendered:
        self.chats.append(chat)
        ids = self._ids(chat)
        pictures = tuple(range(ids.count(ord("\ufffc"))))
        return Rendered(
            ids,
            text=self.decode(ids),
            pictures=pictures,
            reader=lambda: Chain(_Thinking(), MarkedCalls("<tool_call>", "</tool_call>")),
        )

    def steps(self, question: Question, choice: int) -> Iterable[Step]:
        return self._by_prompt(self.decode(question.prompt))


def saying(*steps: Step, **info: Any) -> Answers:
    return Answers(lambda _: steps, **info)


def until(page: Any, expression: str) -> None:
    """Wait until JavaScript is true. Playwright's own function for it needs `eval`, which the page
    forbids."""
    deadline = time.monotonic() + HANGS_S
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(20)


def said(page: Any) -> str:
    """What the chat says of itself to all, not to screen readers only."""
    text: str = page.inner_text(SAID) if page.is_visible(SAID) else ""
    return text


class Background:
    """A server in a thread of its own: the browser's calls block this one."""

    def __init__(self, engine: Any, *, ready: bool = True, **settings: str) -> None:
        self._engine, self._ready, self._settings = engine, ready, settings
        self._up, self._down = threading.Event(), asyncio.Event()
        self.running: Running
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with serve(self._engine, ready=self._ready, **self._settings) as self.running:
            self._up.set()
            await self._down.wait()
            self.running.lifecycle.enter(Phase.DRAINING)  # as web/server.py ends: watchers leave

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._up.wait(HANGS_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._down.set)
            self._thread.join(HANGS_S)

    @property
    def watched(self) -> bool:
        """Some page gets the server's events."""
        tasks = asyncio.all_tasks(self._loop)
        return any(each.get_name() == "page-sampler" for each in tasks)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.running.port}/"
