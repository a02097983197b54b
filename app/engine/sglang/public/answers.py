"""What `Engine.async_generate` yields of one choice, as chunks.

SGLang repeats in each output all that it has said so far: text, ids, log-probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.engine.base import Chunk, Question
from app.engine.sglang.endings import end_of
from app.engine.sglang.tokens import ScoredColumns, Vocabulary
from app.types import Json


class Choice:
    """One choice as far as it has come."""

    def __init__(self, index: int, question: Question, vocabulary: Vocabulary) -> None:
        self._index = index
        self._question = question
        self._vocabulary = vocabulary
        self._chars = self._ids = self._scored = 0
        self.tokens = len(question.prompt)
        """Of the prompt, and of the answer as far as it has come."""
        self._prompt_scored = False

    def chunk(self, output: Json) -> Chunk:
        """What is new in `output`. Raises ServeError if the engine has aborted the request."""
        meta, text = output["meta_info"], output["text"]
        self.tokens = meta["prompt_tokens"] + meta["completion_tokens"]
        finish: Any = None
        matched: Any = None
        if meta.get("finish_reason") is not None:
            finish, matched = end_of(meta["finish_reason"])
        new, self._chars = text[self._chars :], max(self._chars, len(text))
        ids: Sequence[int] = ()
        if self._question.token_ids:
            every = output.get("output_ids") or ()
            ids, self._ids = list(every[self._ids :]), max(self._ids, len(every))
        scored, prompt = self._scores(meta)
        return Chunk(
            self._index,
            new,
            meta["prompt_tokens"],
            meta["completion_tokens"],
            meta.get("cached_tokens") or 0,
            meta.get("reasoning_tokens") or 0,
            finish,
            matched,
            ids=ids,
            scored=scored,
            prompt=prompt,
        )

    def _scores(self, meta: Json) -> tuple[Any, Any]:
        scoring = self._question.scoring
        if scoring is None:
            return (), ()
        own = (meta.get("output_token_logprobs") or ())[self._scored :]
        tops = (meta.get("output_top_logprobs") or ())[self._scored :]
        self._scored += len(own)
        scored = self._vocabulary.scored(*_columns(own, tops))
        prompt: Any = ()
        if scoring.prompt_from is not None and not self._prompt_scored:
            of_prompt = meta.get("input_token_logprobs") or ()
            columns = _columns(of_prompt, meta.get("input_top_logprobs") or ())
            prompt = ScoredColumns(self._vocabulary, columns)
            self._prompt_scored = bool(of_prompt)
        return scored, prompt


def _columns(own: Sequence[Any], tops: Sequence[Any]) -> list[list[Any]]:
    """Rows of (log-probability, id, text) as columns."""
    return [
        [row[0] for row in own],
        [row[1] for row in own],
        [[each[0] for each in row or ()] for row in tops],
        [[each[1] for each in row or ()] for row in tops],
    ]
