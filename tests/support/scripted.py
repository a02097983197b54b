"""The scripted engine with a record of what was asked of it, and SGLang's formats where they are
asked for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from app.engine import scripted
from app.engine.base import Chunk, Embedding, Question, Rendered
from app.types import ChatPrompt, Grammar, Json, Sampling, Scoring


class ScriptedEngine(scripted.ScriptedEngine):
    """`tool_call_parser` and `reasoning_parser` of its `info` are SGLang's names, as in production:
    a test that has tools or thinking needs SGLang."""

    def __init__(
        self,
        *steps: scripted.Step,
        thinking: bool = False,
        gates_grammar: bool = False,
        **options: Any,
    ) -> None:
        """`thinking`: the template opens the thinking itself. `gates_grammar`: as in `Rendered`."""
        super().__init__(*steps, **options)
        self._thinking = thinking
        self._gates_grammar = gates_grammar
        self.calls: list[tuple[list[int], Sampling, str, int]] = []
        """Of every `generate`: prompt, sampling, id, choices."""
        self.scorings: list[Scoring | None] = []
        self.gated: list[bool] = []
        """`gates_grammar` of every `generate`."""
        self.scopes: list[str] = []
        """`cache_scope` of every `generate`."""
        self.whole: list[bool] = []
        """`whole` of every `generate`."""
        self.inputs: list[Any] = []
        """`inputs` of every `generate`."""
        self.chats: list[ChatPrompt] = []
        self.embedded: list[tuple[list[list[int]], int | None]] = []
        """Of every `embed`: prompts, dimensions."""
        self.flushed = 0
        self.profiled: list[Json | None] = []
        self.closed = False

    def render(self, chat: ChatPrompt, grammar: Grammar | None) -> Rendered:
        self.chats.append(chat)
        if chat.tool_use is None and self.info.reasoning_parser is None:
            return super().render(chat, grammar)
        from app.engine.sglang.output import AnswerFormat

        form = AnswerFormat(
            tool_call_parser=self.info.tool_call_parser,
            reasoning_parser=self.info.reasoning_parser,
            use=chat.tool_use,
            thinking=self._thinking,
            grammar=grammar,
        )
        return Rendered(
            self._ids(chat),
            grammar=form.grammar,
            reader=form.reader,
            gates_grammar=self._gates_grammar,
        )

    def generate(self, question: Question, *, id: str, choices: int) -> AsyncGenerator[Chunk, None]:
        self.calls.append((question.prompt, question.sampling, id, choices))
        self.scorings.append(question.scoring)
        self.gated.append(question.gates_grammar)
        self.scopes.append(question.cache_scope)
        self.whole.append(question.whole)
        self.inputs.append(question.inputs)
        return super().generate(question, id=id, choices=choices)

    async def embed(
        self, prompts: Sequence[list[int]], *, id: str, dimensions: int | None = None
    ) -> list[Embedding]:
        self.embedded.append((list(prompts), dimensions))
        return await super().embed(prompts, id=id, dimensions=dimensions)

    async def flush_cache(self) -> bool:
        flushed = await super().flush_cache()
        self.flushed += flushed
        return flushed

    async def profile(self, options: Json | None) -> None:
        self.profiled.append(options)

    async def close(self) -> None:
        self.closed = True
