"""The served model: one request in, one stream of events out.

    prompt ── turn ── engine ── chunks ── events

This is the whole way of a request between a dialect and the engine, on one screen.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec

from app.engine.base import Chunk, Embedding, Engine, EngineInfo, Question
from app.errors import InternalError, ModelNotFound
from app.events import (
    Beat,
    Event,
    Events,
    Progress,
    Scored,
    ScoredToken,
    Started,
    TextDelta,
    TokenIds,
    Usage,
)
from app.gate import Gate
from app.generation import limits
from app.generation.alignment import Alignment
from app.generation.grammars import GrammarCheck
from app.generation.interpreter import Interpreter
from app.generation.prompt import Prepared, Preparer
from app.logs.setup import log
from app.stats import RequestStats
from app.types import ChatPrompt, GenerationRequest, Prompt, Sampling, TextPrompt, ToolUse

_GRAMMARS_KEPT = 1000
GENERIC_NAMES = ("sglang", "default")
"""Accepted for whatever model is served, beside its own names."""


class Job(msgspec.Struct):
    """One prompt of a request on its way into the engine."""

    prepared: Prepared
    sampling: Sampling
    echo: str
    use: ToolUse | None


class ServedModel:
    """A loaded model under its names. Owns the way of a request; the engine is the host's."""

    def __init__(
        self,
        engine: Engine,
        gate: Gate,
        *,
        names: Sequence[str],
        max_total_tokens: int | None,
        max_prompt_chars: int | None,
        max_prompt_scores: int,
        grammar_timeout_s: float,
    ) -> None:
        self._engine = engine
        self._gate = gate
        self._max_prompt_scores = max_prompt_scores
        self.names = tuple(names)
        self.info: EngineInfo = engine.info
        self.limit = min(self.info.context_length, max_total_tokens or self.info.context_length)
        """Tokens of one request, prompt and answer together."""
        self._preparer = Preparer(
            engine, max_chars=max_prompt_chars or min(self.limit * 8, 2_000_000)
        )
        self.grammars = GrammarCheck(engine.grammar_vocabulary(), timeout_s=grammar_timeout_s)

    def check_name(self, name: str) -> None:
        """Raises ModelNotFound."""
        if name not in self.names and name not in GENERIC_NAMES:
            raise ModelNotFound(
                f"The model `{name[:100]}` does not exist here; this server has `{self.names[0]}`.",
                param="model",
            )

    async def generate(
        self, request: GenerationRequest, stats: RequestStats | None = None
    ) -> Events:
        """Answer a request. The first beat means that the engine has accepted it.

        `stats` is told what happens. Raises ServeError before or between beats. Closing it (or
        cancelling its consumer) aborts the request in the engine and gives its turn to the next.
        """
        limits.check_sampling(request.sampling, self.info)
        prepared = await self._preparer.prepare(request)
        if request.scoring is not None:
            lengths = [len(each.ids) for each in prepared]
            limits.check_scores(request.scoring, lengths, request.n, self._max_prompt_scores)
        jobs = [self._job(request, no, ready) for no, ready in enumerate(prepared)]
        for job in jobs:
            if (grammar := job.sampling.grammar) is not None:
                await self._forget_grammars()
                await self.grammars.check(grammar)
        async with self._gate.turn:
            answer = _Answer(request, jobs, stats)
            if len(jobs) == 1:  # nearly always; each generator on the way costs every token
                async with aclosing(self._stream(request, jobs[0], request.id)) as chunks:
                    async for chunk in chunks:
                        yield answer.beat((chunk,))
            else:
                async with aclosing(self._streams(request, jobs)) as batches:
                    async for batch in batches:
                        yield answer.beat(batch)
            if not answer.complete:
                raise InternalError("The engine ended this request without finishing it.")

    async def _forget_grammars(self) -> None:
        """The engine keeps every grammar that it was ever given, until its caches are emptied; that
        it can be only while it has nothing to do."""
        if self.grammars.compiled >= _GRAMMARS_KEPT and self._gate.in_flight <= 1:
            if await self._engine.flush_cache():
                log.info("the engine's caches were emptied", grammars=self.grammars.compiled)
                self.grammars.compiled = 0
            else:  # another process of TOKENIZER_WORKERS is at work; not at every request again
                self.grammars.compiled -= _GRAMMARS_KEPT // 20

    async def embed(
        self, prompts: Sequence[Prompt], *, id: str, dimensions: int | None = None
    ) -> list[Embedding]:
        """Embed each prompt, in order. Raises ServeError; cancelling aborts it in the engine."""
        found = await self._preparer.ids(prompts)
        for prompt, ids in zip(prompts, found, strict=True):
            limits.check_embedded(ids, self.info, self.limit, param=prompt.param)
        async with self._gate.turn:
            return await self._engine.embed(found, id=id, dimensions=dimensions)

    async def tokenize(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of each prompt, a conversation's by the model's template."""
        return await self._preparer.ids(prompts)

    def token_text(self, id: int) -> str:
        return self._engine.decode([id])

    def detokenize(self, ids: Sequence[int], *, special: bool, param: str) -> str:
        limits.check_ids(ids, self.info, param=param)
        return self._engine.decode(ids, special=special)

    async def close(self) -> None:
        self._preparer.close()
        await self.grammars.close()

    def _job(self, request: GenerationRequest, no: int, prepared: Prepared) -> Job:
        """One prompt with the bounds that follow from its length."""
        prompt = request.prompts[no]
        sampling = limits.fit(
            request.sampling, prepared.ids, self.info, self.limit, param=prompt.param
        )
        if prepared.stop:
            sampling = msgspec.structs.replace(sampling, stop=(*prepared.stop, *sampling.stop))
        if prepared.grammar is not sampling.grammar:
            sampling = msgspec.structs.replace(sampling, grammar=prepared.grammar)
        if prepared.keep_special_tokens:
            sampling = msgspec.structs.replace(sampling, skip_special_tokens=False)
        echo = ""
        if request.echo:
            echo = (
                prompt.text
                if isinstance(prompt, TextPrompt)
                else self._engine.decode(prepared.ids, special=False)
            )
        use = prompt.tool_use if isinstance(prompt, ChatPrompt) else None
        return Job(prepared, sampling, echo, use)

    def _stream(self, request: GenerationRequest, job: Job, id: str) -> AsyncGenerator[Chunk, None]:
        question = Question(
            prompt=job.prepared.ids,
            sampling=job.sampling,
            scoring=request.scoring,
            gates_grammar=job.prepared.gates_grammar,
            token_ids=request.token_ids,
            whole=request.whole,
        )
        return self._engine.generate(question, id=id, choices=request.n)

    async def _streams(
        self, request: GenerationRequest, jobs: list[Job]
    ) -> AsyncGenerator[Sequence[Chunk], None]:
        """The chunks of several prompts, their index being the choice's in the whole request."""
        # The engine aborts by prefix: ids of one length cannot be each other's.
        streams = [
            self._stream(request, job, f"{request.id}-{no:04}") for no, job in enumerate(jobs)
        ]
        async with aclosing(_merge(streams)) as merged:
            async for batch in merged:
                yield [
                    chunk if no == 0 else _at(chunk, no * request.n + chunk.index)
                    for no, chunk in batch
                ]


class _Answer:
    """Turns chunks into beats, keeping the counts that the engine reports along the way."""

    def __init__(
        self, request: GenerationRequest, jobs: Sequence[Job], stats: RequestStats | None
    ) -> None:
        self._request = request
        self._stats = stats
        self._prompt_tokens = [len(job.prepared.ids) for job in jobs]
        self._cached: list[int | None] = [None] * len(jobs)
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
        beat: Beat = []
        for chunk in chunks:
            if not self._started:
                self._started = True
                beat.append(Started(sum(self._prompt_tokens), chunk.cached_tokens))
            choice = self._choices[chunk.index]
            choice.completion_tokens = chunk.completion_tokens
            self._note_cached(chunk)
            if self._request.progress:
                beat.append(
                    Progress(
                        self._usage(), chunk.index, chunk.completion_tokens, chunk.prompt_tokens,
                        chunk.cached_tokens,
                    )
                )  # fmt: skip
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
        # The first of several prompts or choices that are alike leaves the others its cache.
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
        )


class _Choice:
    """One choice's chunks as events."""

    def __init__(self, request: GenerationRequest, job: Job, index: int) -> None:
        self._index = index
        self._token_ids = request.token_ids
        self._echo = job.echo
        make_reader = job.prepared.reader
        reader = make_reader() if make_reader else None
        self._interpreter = Interpreter(index, reader, job.use)
        self._alignment = Alignment() if request.scoring is not None else None
        self._scored: list[ScoredToken] = []
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
        found = self._alignment.feed(echo, chunk.prompt, last=True)
        tokens = tuple(token for token, _ in found if token is not None)
        events: list[Event] = [Scored(tokens, self._index, of_prompt=True)] if tokens else []
        return [*events, TextDelta(echo, self._index)] if echo else events

    def _with_scores(self, alignment: Alignment, chunk: Chunk) -> list[Event]:
        """Each token's score right before what its text becomes."""
        events: list[Event] = []
        pairs = alignment.feed(chunk.text, chunk.scored, last=chunk.finish is not None)
        for token, text in pairs:
            if token is not None:
                self._scored.append(token)
            if text and (told := self._interpreter.text(text)):
                if self._scored:
                    events.append(Scored(tuple(self._scored), self._index))
                    self._scored.clear()
                events += told
        return events


def _at(chunk: Chunk, index: int) -> Chunk:
    return msgspec.structs.replace(chunk, index=index)


async def _merge(
    streams: Sequence[AsyncGenerator[Chunk, None]],
) -> AsyncGenerator[list[tuple[int, Chunk]], None]:
    """Several streams as one of batches: all that is there when the consumer comes for more.

    The first stream that fails ends the others.
    """
    ready: asyncio.Queue[tuple[int, Chunk | None]] = asyncio.Queue()

    async def pump(no: int, stream: AsyncGenerator[Chunk, None]) -> None:
        async with aclosing(stream):
            async for chunk in stream:
                ready.put_nowait((no, chunk))
        ready.put_nowait((no, None))

    async def pump_all() -> None:
        async with asyncio.TaskGroup() as group:
            for no, stream in enumerate(streams):
                group.create_task(pump(no, stream))

    pumping = asyncio.create_task(pump_all())
    open_streams = len(streams)
    getting: asyncio.Future[tuple[int, Chunk | None]] | None = None
    try:
        while open_streams:
            getting = asyncio.ensure_future(ready.get())
            await asyncio.wait({getting, pumping}, return_when=asyncio.FIRST_COMPLETED)
            if not getting.done():
                getting.cancel()
                await pumping
                continue
            batch = [getting.result()]
            while not ready.empty():
                batch.append(ready.get_nowait())
            open_streams -= sum(chunk is None for _, chunk in batch)
            if chunks := [(no, chunk) for no, chunk in batch if chunk is not None]:
                yield chunks
    except* Exception as group:
        raise _first(group) from group
    finally:
        if getting is not None:
            getting.cancel()
        pumping.cancel()
        await asyncio.gather(pumping, return_exceptions=True)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
