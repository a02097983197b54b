"""The benchmark's engine: all running requests gain a token at a time, as in a real batch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

from app.engine.base import Chunk, Question, Rendered
from app.engine.scripted import ScriptedEngine
from app.types import ChatPrompt, Grammar, Text

_STEPPED_CONTEXT_TOKENS = 1_000_000


def numbered_words(first: int, count: int) -> str:
    """The answer of `SteppedEngine` to the prompt `first` with `count` tokens."""
    return "".join([f"{number} " for number in range(first, first + count)])


class _Answer:
    """One request. `gained` is set while it has tokens that its consumer has not taken."""

    __slots__ = ("gained", "tokens", "wanted")

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.tokens = 0
        self.gained = asyncio.Event()


class SteppedEngine(ScriptedEngine):
    """Steps as a real engine does: all running requests gain a token at a time.

        prompt "   4000", max_tokens 3  ->  "4000 ", "4001 ", "4002 " and finish reason `length`

    The words are numbered from the number in the prompt, so that a client sees in the text alone
    if a token was lost, repeated, reordered or came from another stream. With `step_s` 0 the engine
    makes a step once every request has taken its token, so the server's speed is the only limit.
    Else it makes a step every `step_s`, and the tokens that wait for a request are one chunk.
    Other fields of the question, such as scores, have no effect.
    """

    def __init__(self, step_s: float = 0.0) -> None:
        super().__init__(
            context_length=_STEPPED_CONTEXT_TOKENS,
            max_prompt_tokens=_STEPPED_CONTEXT_TOKENS,
            vocab_size=2**31,
        )
        self._step_s = step_s
        self._batch: set[_Answer] = set()
        self._untaken = 0
        self._due = asyncio.Event()
        self._stepping = asyncio.create_task(self._step_on())

    def render(self, chat: ChatPrompt, grammar: Grammar | None) -> Rendered:
        (turn,) = chat.messages
        (part,) = turn.parts
        assert isinstance(part, Text)
        return Rendered(self.encode(part.text))

    async def generate(
        self, question: Question, *, id: str, choices: int
    ) -> AsyncGenerator[Chunk, None]:
        prompt, wanted = question.prompt, question.sampling.max_tokens
        assert wanted, "the client says how many tokens it wants"
        first = int(self.decode(prompt))
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
                    0,
                    numbered_words(first + new.start, len(new)),
                    len(prompt),
                    taken,
                    0,
                    finish="length" if taken == wanted else None,
                )
        finally:
            self._leave(answer)

    async def close(self) -> None:
        self._stepping.cancel()
        with suppress(asyncio.CancelledError):
            await self._stepping

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
