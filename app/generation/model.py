"""The served model: one request in, one stream of events out.

    prompt ── room ── engine ── chunks ── events

This is the whole way of a request between a dialect and the engine, on one screen.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing

import msgspec

from app.adapters.registry import Adapters
from app.engine.base import Chunk, Embedding, Engine, EngineInfo, Question, Rendered
from app.errors import InternalError, ModelNotFound
from app.events import Events
from app.gate import Gate
from app.generation import limits
from app.generation.answer import Answer
from app.generation.merge import merge, parts
from app.generation.pieces import Pieces
from app.generation.prefixes import LEAST_TOKENS, TAIL_TOKENS, Prefixes
from app.generation.prompt import Job, Preparer
from app.grammars.check import GrammarCheck
from app.media.pictures import Pictures
from app.sequences import Share
from app.settings.catalogue import GENERIC_NAMES
from app.stats import Prefix, RequestStats
from app.types import ChatPrompt, GenerationRequest, Prompt, Scoring, TextPrompt

_MOST_NAMES = 5
"""In an error."""


class ServedModel:
    """A loaded model under its names. Owns the way of a request; the host owns the engine."""

    def __init__(
        self,
        engine: Engine,
        gate: Gate,
        *,
        names: Sequence[str],
        max_total_tokens: int | None,
        max_prompt_chars: int | None,
        max_prompt_scores: int,
        max_answer_scores: int,
        grammar_timeout_s: float,
        pictures: Pictures | None = None,
        adapters: Adapters | None = None,
        takes_any_name: bool = False,
    ) -> None:
        """`pictures`, `adapters`: None if there are none. They are closed with the model.
        `takes_any_name`: a request for a name that nothing has is one for this model."""
        self._engine = engine
        self._gate = gate
        self._max_prompt_scores = max_prompt_scores
        self._max_answer_scores = max_answer_scores
        self.names = tuple(names)
        self.takes_any_name = takes_any_name
        self.info: EngineInfo = engine.info
        self.limit = min(self.info.context_length, max_total_tokens or self.info.context_length)
        """Tokens of one request, prompt and answer together."""
        self._pictures = pictures
        self.adapters = adapters
        self._preparer = Preparer(
            engine,
            max_chars=max_prompt_chars or min(self.limit * 8, 2_000_000),
            limit=self.limit,
            pictures=pictures,
        )
        self._pieces = Pieces()
        self._prefixes = Prefixes() if self.info.caches_prefixes else None
        self.grammars = GrammarCheck(engine.grammar_vocabulary(), timeout_s=grammar_timeout_s)

    def check_name(self, name: str) -> None:
        """Raises ModelNotFound."""
        if name in self.names or name in GENERIC_NAMES or self.takes_any_name:
            return
        if not self.has_adapter(name):
            served = ", ".join(f"`{each[:100]}`" for each in self.names[:_MOST_NAMES])
            raise ModelNotFound(
                f"The model `{name[:100]}` does not exist here; this server has {served}, which "
                f"{' and '.join(GENERIC_NAMES)} mean, too (SERVED_MODEL_NAME).",
                param="model",
            )

    def has_adapter(self, name: str) -> bool:
        """It is one, or may be: `Adapters.may_have`."""
        return self.adapters is not None and self.adapters.may_have(name)

    async def generate(
        self, request: GenerationRequest, stats: RequestStats | None = None
    ) -> Events:
        """Answer a request. The first beat means that the engine has accepted it.

        `stats` records each beat. Raises ServeError before or between beats. Closing the generator
        (or cancelling its consumer) aborts the request in the engine and frees its room.
        """
        limits.check_sampling(request.sampling, self.info)
        hold = AsyncExitStack() if self._pictures is not None else None
        lease = None
        try:
            if request.adapter is not None and self.adapters is not None:
                lease = await self.adapters.lend(request.adapter)
                request = msgspec.structs.replace(request, adapter=lease.id)
            jobs = await self._jobs(request, stats, hold)
            if stats is not None and (stats.timed or stats.on_prompt is not None):
                stats.prepare(request.sampling, sum(len(job.prompt.ids) for job in jobs))
            # Megabytes of text that is not needed while the engine answers.
            request = msgspec.structs.replace(request, prompts=())
            share = self._gate.sequences.of_one_request()
            answer = Answer(request, jobs, stats)
            most = self._gate.sequences.share
            beams = request.sampling.beam_width
            if len(jobs) == 1 and request.n <= most and beams is None:
                # Nearly always; each generator on the way costs every token.
                async with (
                    share.room(request.n),
                    aclosing(self._stream(request, jobs[0], request.id, request.n)) as chunks,
                ):
                    if stats is not None and stats.timed:
                        stats.entered = time.perf_counter()
                    async for chunk in chunks:
                        if hold is not None:  # the engine has the pictures
                            await hold.aclose()
                            hold = None
                        yield answer.beat((chunk,))
            else:
                streams = [
                    (
                        first,
                        self._in_room(
                            share, request, jobs[first // request.n], first, choices, stats
                        ),
                    )
                    for first, choices in parts(
                        len(jobs), request.n, most if beams is None else request.n
                    )
                ]
                async with aclosing(merge(streams)) as batches:
                    async for batch in batches:
                        yield answer.beat(batch)
        finally:
            if hold is not None:
                await hold.aclose()
            if lease is not None:
                lease.end()
        if not answer.complete:
            raise InternalError("The engine ended this request without finishing it.")

    async def _jobs(
        self, request: GenerationRequest, stats: RequestStats | None, hold: AsyncExitStack | None
    ) -> list[Job]:
        """What the engine is asked. `hold`: as of `Preparer.prepare`."""
        prompts = await self._preparer.prepare(request, hold)
        if request.scoring is not None:
            lengths = [len(prompt.ids) for prompt in prompts]
            limits.check_scores(request.scoring, lengths, request.n, self._max_prompt_scores)
        if stats is not None and hold is not None:
            stats.pictures = sum(len(prompt.pictures) for prompt in prompts) or None
            stats.picture_tokens = sum(prompt.picture_tokens for prompt in prompts) or None
        jobs = [self._job(request, no, rendered) for no, rendered in enumerate(prompts)]
        if request.scoring is not None:
            jobs = self._bounded(jobs, request, request.scoring)
        for no, job in enumerate(jobs):
            if (grammar := job.sampling.grammar) is not None:
                jobs[no] = job.constrained(await self.grammars.check(grammar))
        compared = len(jobs) == 1 and not prompts[0].pictures  # whose tokens are all the same
        if stats is not None and compared and len(prompts[0].ids) >= LEAST_TOKENS:
            stats.prefix = await self._compared(request, prompts[0].ids, stats.owner)
        return jobs

    async def _compared(
        self, request: GenerationRequest, ids: Sequence[int], owner: str
    ) -> Prefix | None:
        """A request's only prompt with the one before that begins alike, of the same owner in the
        same part of the cache."""
        if self._prefixes is None:
            return None
        shared = self._prefixes.note(f"{owner}\0{request.cache_scope}\0{request.adapter}", ids)
        if shared is None or min(shared.earlier, len(ids)) - shared.tokens <= TAIL_TOKENS:
            return shared
        place = await self._preparer.place(shared.tokens, ids, request.prompts[0])
        return msgspec.structs.replace(shared, differs_in=place)

    def _job(self, request: GenerationRequest, no: int, rendered: Rendered) -> Job:
        """One prompt with the bounds that follow from its length."""
        prompt = request.prompts[no]
        sampling = limits.fit(
            request.sampling,
            rendered.ids,
            self.info,
            self.limit,
            param=prompt.param,
            clamps=request.clamps,
        )
        if rendered.stop:
            sampling = msgspec.structs.replace(sampling, stop=(*rendered.stop, *sampling.stop))
        if rendered.grammar is not sampling.grammar:
            sampling = msgspec.structs.replace(sampling, grammar=rendered.grammar)
        if rendered.keep_special_tokens:
            sampling = msgspec.structs.replace(sampling, skip_special_tokens=False)
        echo = ""
        if request.echo:
            echo = (
                prompt.text
                if isinstance(prompt, TextPrompt)
                else self._engine.decode(rendered.ids, special=False)
            )
        use = prompt.tool_use if isinstance(prompt, ChatPrompt) else None
        return Job(rendered, sampling, echo, use)

    def _bounded(self, jobs: list[Job], request: GenerationRequest, scoring: Scoring) -> list[Job]:
        """The jobs, with answers so short that their scores are within the bound."""
        most = limits.scored_tokens(
            [
                self.limit - len(job.prompt.ids)
                if job.sampling.max_tokens is None
                else job.sampling.max_tokens
                for job in jobs
            ],
            request,
            scoring,
            self._max_answer_scores,
        )
        if most is None:
            return jobs
        replace = msgspec.structs.replace
        return [replace(job, sampling=replace(job.sampling, max_tokens=most)) for job in jobs]

    async def _in_room(
        self,
        share: Share,
        request: GenerationRequest,
        job: Job,
        first: int,
        choices: int,
        stats: RequestStats | None,
    ) -> AsyncGenerator[Chunk, None]:
        # The engine aborts by prefix: no id of equal length is a prefix of another.
        id = f"{request.id}-{first:05}"
        stream = self._stream(request, job, id, choices)
        # Beams cannot take turns: those beyond a request's share are in the engine all the same.
        room = min(request.sampling.beam_width or choices, self._gate.sequences.share)
        async with share.room(room), aclosing(stream) as chunks:
            if stats is not None and stats.timed and stats.entered is None:
                stats.entered = time.perf_counter()
            async for chunk in chunks:
                yield chunk

    def _stream(
        self, request: GenerationRequest, job: Job, id: str, choices: int
    ) -> AsyncGenerator[Chunk, None]:
        question = Question(
            prompt=job.prompt.ids,
            sampling=job.sampling,
            scoring=request.scoring,
            gates_grammar=job.prompt.gates_grammar,
            token_ids=request.token_ids,
            cache_scope=request.cache_scope,
            whole=request.whole,
            inputs=job.prompt.inputs,
            adapter=request.adapter,
        )
        chunks = self._engine.generate(question, id=id, choices=choices)
        scoring = request.scoring
        if scoring is None or scoring.prompt_from is None:
            return chunks
        return self._pieces.cut(chunks, top=scoring.top)

    async def embed(
        self, prompts: Sequence[Prompt], *, id: str, dimensions: int | None = None
    ) -> list[Embedding]:
        """Embed each prompt, in order. Raises ServeError; cancelling aborts it in the engine."""
        batch = await self._preparer.ids(prompts)
        for prompt, ids in zip(prompts, batch, strict=True):
            limits.check_embedded(ids, self.info, self.limit, param=prompt.param)
        share, most = self._gate.sequences.of_one_request(), self._gate.sequences.share
        embeddings: list[Embedding] = []
        for first in range(0, len(batch), most):
            some = batch[first : first + most]
            async with share.room(len(some)):
                embeddings += await self._engine.embed(some, id=id, dimensions=dimensions)
        return embeddings

    async def find_adapter(self, name: str) -> None:
        """Raises ModelNotFound."""
        if self.adapters is not None:
            await self.adapters.find(name)

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
        if self._pictures is not None:
            await self._pictures.close()
        if self.adapters is not None:
            await self.adapters.close()
