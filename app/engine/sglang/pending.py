"""One choice of a request while the engine generates it."""

from __future__ import annotations

import time
from typing import Any

from app.engine.base import Question
from app.engine.inbox import Inbox
from app.engine.sglang.observed import LoggedRequest
from app.engine.sglang.texts import TextStream


class Pending:
    """The engine knows it as a request."""

    __slots__ = (
        "beams",
        "choice",
        "first_at",
        "id",
        "inbox",
        "log",
        "plain",
        "prompt_scored",
        "question",
        "stream",
        "times",
        "tokens",
    )

    def __init__(
        self,
        id: str,
        inbox: Inbox,
        choice: int,
        question: Question,
        times: Any,
        *,
        beams: int = 0,
        stream: TextStream | None = None,
    ) -> None:
        self.id = id
        self.inbox = inbox
        self.choice = choice
        self.question = question
        self.times = times
        """SGLang's `APIServerReqTimeStats`."""
        self.beams = beams
        """Choices that a search with beams returns; 0: it is none."""
        self.stream = stream
        """What makes text of its ids; None: the engine's detokenizer does."""
        self.tokens = 0
        """Of the answer, as far as ids have come."""
        self.plain = question.scoring is None and not question.token_ids
        """Chunks carry text and counts only."""
        self.log: LoggedRequest | None = None
        self.first_at: float | None = None
        """When the first token came, by `time.perf_counter`."""
        self.prompt_scored = False
        """A chunk has carried the prompt's log-probabilities."""

    def note_first(self) -> None:
        self.first_at = time.perf_counter()
        self.times.set_first_token_time(self.first_at)
