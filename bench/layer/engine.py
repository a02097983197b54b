"""A scripted engine that steps as a real one does: all running requests gain a token at a time.

    prompt "   4000", max_tokens 3  ->  "4000 ", "4001 ", "4002 " and finish reason `length`

The words are numbered from the number in the prompt, so that a client sees by the text alone what
was lost, repeated, put in another order or came from another stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

from app.engine.base import Chunk, Rendered
from app.types import ChatPrompt, Sampling
from tests.support.scripted import ScriptedEngine

_CONTEXT_TOKENS = 1_000_000


def words(first: int, count: int) -> str:
    """What the engine says to a prompt of `first` within `count` tokens."""
    return "".join([f"{number} " for number in range(first, first + count)])


class _Answer:
    """One request. `gained` is set while it has tokens that its consumer has not taken."""

    __slots__ = ("gained", "tokens", "wanted")

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.tokens = 0
        self.gained = asyncio.Event()


class SteppedEngine(ScriptedEngine):
    """One task makes the steps, as one batch of output wakes all requests that are in it.

    `step_s` 0: a step is made once every request has taken its token: a chunk is one token, and the
    server's speed is the only one. Else a step is made every `step_s`, whoever has taken what; the
    tokens that a request finds together are one chunk. Whatever else is asked for, such as scores,
    is not given.
    """

    def __init__(self, step_s: float = 0.0) -> None:
        super().__init__(
            context_length=_CONTEXT_TOKENS, max_prompt_tokens=_CONTEXT_TOKENS, vocab_size=2**31
        )
        self._step_s = step_s
        self._batch: set[_Answer] = set()
        self._untaken = 0
        self._due = asyncio.Event()
        self._stepping = asyncio.create_task(self._step_on())

    def render(self, chat: ChatPrompt) -> Rendered:
        return Rendered(self.encode("".join([str(each["content"]) for each in chat.messages])))

    async def generate(
        self,
        prompt: list[int],
        sampling: Sampling,
        *,
        id: str,
        choices: int,
        **_: Any,
    ) -> AsyncGenerator[Chunk, None]:
        first, wanted = int(self.decode(prompt)), sampling.max_tokens
        assert wanted, "the client says how many tokens it wants"
        answer = _Answer(wanted)
        self._enter(answer)
        taken = 0
        try:
            while taken < wanted:
                await answer.gained.wait()
                self._take(answer)
                new = range(taken, answer.tokens)
                taken = answer.tokens
                yield Chunk(
                    0, words(first + new.start, len(new)), len(prompt), taken, 0,
                    finish="length" if taken == wanted else None,
                )  # fmt: skip
        finally:
            self._leave(answer)

    async def close(self) -> None:
        self._stepping.cancel()
        with suppress(asyncio.CancelledError):
            await self._stepping
        await super().close()

    # -- the batch ---------------------------------------------------------------------------

    async def _step_on(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            if self._step_s:
                await asyncio.sleep(self._step_s)
            self._step()
            if self._step_s and self._batch:
                self._due.set()

    def _step(self) -> None:
        for answer in list(self._batch):
            answer.tokens += 1
            self._untaken += not answer.gained.is_set()
            answer.gained.set()
            if answer.tokens == answer.wanted:
                self._batch.discard(answer)

    def _enter(self, answer: _Answer) -> None:
        self.running += 1
        self._batch.add(answer)
        if not self._untaken:
            self._due.set()

    def _take(self, answer: _Answer) -> None:
        answer.gained.clear()
        self._untaken -= 1
        if not self._untaken:
            self._due.set()

    def _leave(self, answer: _Answer) -> None:
        self.running -= 1
        self.aborted += answer.tokens < answer.wanted
        self._batch.discard(answer)
        if answer.gained.is_set():
            self._take(answer)
