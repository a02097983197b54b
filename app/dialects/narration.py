"""What the log has of a generation beside the request's end line, if the operator wants it: its
steps, with LOG_FORMAT=text, and its answer, with LOG_LEVEL=debug."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import msgspec

from app.events import (
    Beat,
    Events,
    Finished,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
)
from app.logs.setup import log
from app.settings.catalogue import Settings
from app.stats import RequestStats, milliseconds

_ANSWER_CHARS = 16_384
"""Of one answer, all choices together."""
_NOT_STEPS = frozenset({"n"})
"""One choice goes without saying."""


class Narration(msgspec.Struct, frozen=True):
    steps: bool
    answers: bool
    most_chars: int

    @classmethod
    def of(cls, settings: Settings) -> Narration | None:
        """None: nothing is wanted."""
        steps, answers = settings.log_format == "text", settings.log_level == "debug"
        if not steps and not answers:
            return None
        most = settings.max_log_len
        return cls(steps, answers, _ANSWER_CHARS if most is None else min(most, _ANSWER_CHARS))

    async def tell(
        self, events: Events, stats: RequestStats, path: str, fields: dict[str, Any]
    ) -> Events:
        """The events, unchanged. `fields`: of the request's end line."""
        id = fields.get("id", "")
        began = time.perf_counter()
        if self.steps:
            one = fields.get("n") == 1
            shown = {k: v for k, v in fields.items() if not (one and k in _NOT_STEPS)}
            log.info("generation requested", path=path, **shown)
            stats.on_prompt = lambda tokens: log.info(
                "generation started", id=id, prompt_tokens=tokens
            )
        answers = _Answers(self.most_chars if self.answers else 0)
        complete = False
        try:
            async with aclosing(events):
                async for beat in events:
                    if self.answers:
                        answers.add(beat)
                    yield beat
            complete = True
        finally:
            if self.answers:
                answers.log(id)
            if self.steps and complete:
                took_s = time.perf_counter() - began
                log.info("generation completed", id=id, duration_ms=milliseconds(took_s))


@dataclass(slots=True)
class _Choice:
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    finish_reason: str | None = None


class _Answers:
    """The choices of one answer, as far as they are kept for the log."""

    def __init__(self, most_chars: int) -> None:
        self._room = most_chars
        self._cut = False
        self._choices: defaultdict[int, _Choice] = defaultdict(_Choice)

    def add(self, beat: Beat) -> None:
        for event in beat:
            match event:
                case TextDelta(text, index):
                    self._keep(self._choices[index].text, text)
                case ReasoningDelta(text, index):
                    self._keep(self._choices[index].reasoning, text)
                case ToolCallStarted(name=name, index=index):
                    calls = self._choices[index].calls
                    self._keep(calls, f" {name} " if calls else f"{name} ")
                case ToolCallDelta(arguments=arguments, index=index):
                    self._keep(self._choices[index].calls, arguments)
                case Finished(reason, index):
                    self._choices[index].finish_reason = reason

    def log(self, id: str) -> None:
        for index, choice in sorted(self._choices.items()):
            fields: dict[str, Any] = {
                "choice": index,
                "text": "".join(choice.text),
                "reasoning": "".join(choice.reasoning) or None,
                "tool_calls": "".join(choice.calls) or None,
                "finish_reason": choice.finish_reason,
                "cut": self._cut or None,
            }
            shown = {name: value for name, value in fields.items() if value is not None}
            log.debug("answer", id=id, **shown)

    def _keep(self, parts: list[str], text: str) -> None:
        if kept := text[: self._room]:
            parts.append(kept)
            self._room -= len(kept)
        self._cut = self._cut or len(kept) < len(text)
