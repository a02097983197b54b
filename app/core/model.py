"""The served model: one request in, one stream of events out.

    admission ── prompt ── engine ── events

This is the whole way of a request between a dialect and the engine, on one screen.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec

from app.core import limits
from app.core.prompt import Preparer
from app.engine.base import Chunk, Engine, EngineInfo, Rendered
from app.errors import InternalError, ModelNotFound
from app.lifecycle import Gate
from app.types import Beat, Events, Finished, GenerationRequest, Sampling, Started, TextDelta, Usage

GENERIC_NAMES = ("sglang", "default")
"""Accepted for whatever model is served, beside its own names."""


class ServedModel:
    """A loaded model under its names. Owns the way of a request; the engine is the host's."""

    def __init__(
        self, engine: Engine, gate: Gate, *, names: Sequence[str], max_total_tokens: int | None
    ) -> None:
        self._engine = engine
        self._gate = gate
        self._preparer = Preparer(engine)
        self.names = tuple(names)
        self.info: EngineInfo = engine.info
        self.limit = min(self.info.context_length, max_total_tokens or self.info.context_length)
        """Tokens of one request, prompt and answer together."""

    def check_name(self, name: str) -> None:
        """Raises ModelNotFound."""
        if name not in self.names and name not in GENERIC_NAMES:
            raise ModelNotFound(
                f"The model `{name[:100]}` does not exist here; this server has `{self.names[0]}`.",
                param="model",
            )

    async def generate(self, request: GenerationRequest) -> Events:
        """Answer a request. The first beat means that the engine has accepted it.

        Raises ServeError before or between beats. Closing it (or cancelling its consumer) aborts
        the request in the engine and gives its turn to the next.
        """
        limits.check_sampling(request.sampling, self.info)
        rendered = await self._preparer.ids(request.prompts)
        jobs = [self._job(request, no, ready) for no, ready in enumerate(rendered)]
        async with self._gate.turn, aclosing(self._chunks(request, jobs)) as batches:
            tally = _Tally(request.n, [len(ids) for ids, _ in jobs])
            async for chunks in batches:
                yield tally.beat(chunks)
            if not tally.complete:
                raise InternalError("The engine ended this request without finishing it.")

    def close(self) -> None:
        self._preparer.close()

    def _job(
        self, request: GenerationRequest, prompt_no: int, rendered: Rendered
    ) -> tuple[list[int], Sampling]:
        """Token ids of one prompt, and the sampling with the bounds that follow from them."""
        param = request.prompts[prompt_no].param
        sampling = limits.fit(request.sampling, rendered.ids, self.info, self.limit, param=param)
        if rendered.stop:
            stop = (*rendered.stop, *sampling.stop)
            sampling = msgspec.structs.replace(sampling, stop=stop)
        return rendered.ids, sampling

    async def _chunks(
        self, request: GenerationRequest, jobs: list[tuple[list[int], Sampling]]
    ) -> AsyncGenerator[Sequence[Chunk], None]:
        """The engine's chunks, their index being the choice's in the whole request."""
        if len(jobs) == 1:
            (ids, sampling) = jobs[0]
            single = self._engine.generate(ids, sampling, id=request.id, choices=request.n)
            async with aclosing(single):
                async for chunk in single:
                    yield (chunk,)
            return
        streams = [
            # The engine aborts by prefix: ids of one length cannot be each other's.
            self._engine.generate(ids, sampling, id=f"{request.id}-{no:04}", choices=request.n)
            for no, (ids, sampling) in enumerate(jobs)
        ]
        merged = _merge(streams)
        async with aclosing(merged):
            async for batch in merged:
                yield [
                    chunk if no == 0 else _at(chunk, no * request.n + chunk.index)
                    for no, chunk in batch
                ]


class _Tally:
    """Turns chunks into beats, keeping the counts that the engine reports along the way."""

    def __init__(self, n: int, prompt_lengths: Sequence[int]) -> None:
        self._n = n
        self._prompt_tokens = dict(enumerate(prompt_lengths))
        self._cached: dict[int, int] = {}
        self._completion = 0
        self._reasoning = 0
        self._open = n * len(prompt_lengths)
        self._started = False

    @property
    def complete(self) -> bool:
        return self._open == 0

    def beat(self, chunks: Sequence[Chunk]) -> Beat:
        beat: Beat = []
        for chunk in chunks:
            if not self._started:
                self._started = True
                beat.append(Started(sum(self._prompt_tokens.values())))
            if chunk.text:
                beat.append(TextDelta(chunk.text, chunk.index))
            if chunk.finish is not None:
                self._finish(chunk, beat)
        return beat

    def _finish(self, chunk: Chunk, beat: Beat) -> None:
        assert chunk.finish is not None
        beat.append(Finished(chunk.finish, chunk.index, chunk.matched))
        prompt_no = chunk.index // self._n
        self._prompt_tokens[prompt_no] = chunk.prompt_tokens
        # With several choices SGLang first runs the prompt once and then reports it as cached.
        self._cached[prompt_no] = min(
            chunk.cached_tokens, self._cached.get(prompt_no, chunk.cached_tokens)
        )
        self._completion += chunk.completion_tokens
        self._reasoning += chunk.reasoning_tokens
        self._open -= 1
        if self.complete:
            beat.append(
                Usage(
                    prompt_tokens=sum(self._prompt_tokens.values()),
                    completion_tokens=self._completion,
                    cached_tokens=sum(self._cached.values()),
                    reasoning_tokens=self._reasoning,
                )
            )


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
