"""The engine's chunks as beats of events."""

from __future__ import annotations

from collections.abc import Sequence

from app.engine.base import Chunk
from app.events import (
    Beat,
    Event,
    Progress,
    Scored,
    ScoredToken,
    Started,
    TextDelta,
    TokenIds,
    Usage,
)
from app.generation.alignment import Alignment
from app.generation.interpreter import Interpreter
from app.generation.prompt import Job
from app.stats import RequestStats
from app.types import GenerationRequest


class Answer:
    """Turns chunks into beats, and keeps the counts that the engine reports along the way."""

    def __init__(
        self, request: GenerationRequest, jobs: Sequence[Job], stats: RequestStats | None
    ) -> None:
        """`jobs`: one for each prompt."""
        self._request = request
        self._stats = stats
        self._prompt_tokens = [len(job.prompt.ids) for job in jobs]
        self._picture_tokens = jobs[0].prompt.picture_tokens
        for job in jobs[1:]:
            self._picture_tokens += job.prompt.picture_tokens
        self._cached: list[int | None] = [None] * len(jobs)
        """Of each prompt; None until its first chunk."""
        self._reasoning = 0
        self._started = False
        self._choices = [
            _Choice(request, jobs[no // request.n], no) for no in range(request.n * len(jobs))
        ]
        self._open = len(self._choices)

    @property
    def complete(self) -> bool:
        return self._open == 0

    def beat(self, chunks: Sequence[Chunk]) -> Beat:
        """What becomes known with these chunks; `Chunk.index` is that of the whole request."""
        beat: Beat = []
        for chunk in chunks:
            if not self._started:
                self._started = True
                beat.append(Started(sum(self._prompt_tokens), chunk.cached_tokens))
            choice = self._choices[chunk.index]
            choice.completion_tokens = chunk.completion_tokens
            self._note_cached(chunk)
            if self._request.progress:
                progress = Progress(
                    self._usage(),
                    chunk.index,
                    chunk.completion_tokens,
                    chunk.prompt_tokens,
                    chunk.cached_tokens,
                )
                beat.append(progress)
            beat += choice.events(chunk)
            if chunk.finish is not None:
                self._finish(chunk)
                if self.complete:
                    beat.append(self._usage())
        if self._stats is not None:
            self._stats.note(beat)
        return beat

    def _finish(self, chunk: Chunk) -> None:
        self._prompt_tokens[chunk.index // self._request.n] = chunk.prompt_tokens
        self._reasoning += chunk.reasoning_tokens
        self._open -= 1

    def _note_cached(self, chunk: Chunk) -> None:
        # The least of a prompt's choices: the first choice fills the cache for the others.
        prompt_no = chunk.index // self._request.n
        cached = self._cached[prompt_no]
        if cached is None or chunk.cached_tokens < cached:
            self._cached[prompt_no] = chunk.cached_tokens

    def _usage(self) -> Usage:
        return Usage(
            prompt_tokens=sum(self._prompt_tokens),
            completion_tokens=sum(choice.completion_tokens for choice in self._choices),
            cached_tokens=sum(cached or 0 for cached in self._cached),
            reasoning_tokens=self._reasoning,
            picture_tokens=self._picture_tokens,
        )


class _Choice:
    """One choice's chunks as events."""

    def __init__(self, request: GenerationRequest, job: Job, index: int) -> None:
        self._index = index
        self._token_ids = request.token_ids
        self._echo = job.echo
        self._echoes = bool(job.echo)
        make_reader = job.prompt.reader
        reader = make_reader() if make_reader else None
        self._interpreter = Interpreter(index, reader, job.use)
        self._alignment = Alignment() if request.scoring is not None else None
        self._scored: list[ScoredToken] = []
        """Tokens whose text has not become an event yet."""
        self._plain = not (job.echo or request.token_ids or reader or request.scoring)
        self.completion_tokens = 0

    def events(self, chunk: Chunk) -> Sequence[Event]:
        if self._plain and chunk.finish is None:  # nearly every token
            return (TextDelta(chunk.text, self._index),) if chunk.text else ()
        events: list[Event] = []
        if self._token_ids and chunk.ids:
            events.append(TokenIds(tuple(chunk.ids), self._index))
        if self._echo or chunk.prompt:
            events += self._prompt(chunk)
        if chunk.prompt_goes_on:
            return events
        if self._alignment is not None:
            events += self._with_scores(self._alignment, chunk)
        elif chunk.text:
            events += self._interpreter.text(chunk.text)
        if chunk.finish is not None:
            ending = self._interpreter.end(chunk.finish, chunk.matched)
            if self._scored:
                ending.insert(0, Scored(tuple(self._scored), self._index))
            events += ending
        return events

    def _prompt(self, chunk: Chunk) -> list[Event]:
        """The prompt as the beginning of the answer."""
        echo, self._echo = self._echo, ""
        if self._alignment is None:
            return [TextDelta(echo, self._index)]
        # Without an echo no text will come for tokens that wait for it.
        last = not (chunk.prompt_goes_on and self._echoes)
        pairs = self._alignment.feed(echo, chunk.prompt, last=last, whole=True)
        tokens = tuple(token for token, _ in pairs if token is not None)
        text = "".join([text for _, text in pairs])
        events: list[Event] = [Scored(tokens, self._index, of_prompt=True)] if tokens else []
        return [*events, TextDelta(text, self._index)] if text else events

    def _with_scores(self, alignment: Alignment, chunk: Chunk) -> list[Event]:
        """Each token's score right before the events that its text becomes."""
        events: list[Event] = []
        pairs = alignment.feed(chunk.text, chunk.scored, last=chunk.finish is not None)
        for token, text in pairs:
            if token is not None:
                self._scored.append(token)
            if text and (text_events := self._interpreter.text(text)):
                if self._scored:
                    events.append(Scored(tuple(self._scored), self._index))
                    self._scored.clear()
                events += text_events
        return events
