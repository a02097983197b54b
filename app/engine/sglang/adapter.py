"""The SGLang engine inside this process: `Engine` over `sglang.Engine`; launch.py builds it.

Written against sglang 0.5.23; `tests/engine/test_sglang_contract.py` fails first when it changes.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from app import awake
from app.engine.base import Chunk, Embedding, Engine, EngineInfo, Load, Question, Rendered, Watched
from app.engine.sglang.adapters import EngineAdapters
from app.engine.sglang.beams import searches_beams
from app.engine.sglang.endings import refused
from app.engine.sglang.exchange import Exchange
from app.engine.sglang.infill import Infill
from app.engine.sglang.memory import EngineMemory
from app.engine.sglang.pending import Pending
from app.engine.sglang.pictures import GREY, WARM_UP, PictureProcessor, discard, prepare
from app.engine.sglang.pooling import Pooling
from app.engine.sglang.profiler import Profiler
from app.engine.sglang.pulse import Pulse, read_loads
from app.engine.sglang.readers import ENDED_BY_ANY_MARKER
from app.engine.sglang.sampling_names import sampling_params, valid_defaults
from app.engine.sglang.texts import detokenizer_of
from app.engine.sglang.tokenizers import Tokenizers
from app.engine.sglang.tokens import Vocabulary
from app.engine.sglang.vectors import vector_of
from app.engine.sglang.watch import end_schedulers
from app.errors import InvalidRequest, ServeError, StartError
from app.grammars.compiler import Vocabulary as GrammarVocabulary
from app.lifecycle import Phase
from app.logs.setup import log
from app.media.picture import Decoded
from app.types import ChatPrompt, Grammar, Json, Sampling

_EXCUSED_S, _EXCUSED_ON_CPU_S = 600.0, 3600.0
_HARDLY = 1e-9
"""Seconds of silence of an engine that has work, and is not silent."""


class SGLangEngine:
    """`Engine` over sglang.Engine."""

    phase_when_up = Phase.WARMING

    def __init__(
        self,
        engine: Any,
        pools: Pooling | None,
        watch: Watched,
        *,
        fingerprint: str,
        called: str = "",
        pictures: PictureProcessor | None = None,
        adapters: EngineAdapters | None = None,
        memory: EngineMemory | None = None,
        widest_stride: int = 1,
        reads_ids: bool = False,
        default_sampling: dict[str, Any] | None = None,
    ) -> None:
        """`called`: the model's name, if not its path. `reads_ids`: the schedulers send ids.
        `default_sampling`: the operator's, before the model's own."""
        self._default_sampling = default_sampling or {}
        self._engine = engine
        self._manager = engine.tokenizer_manager
        self._watch = watch
        self._closed = False
        self.memory = memory
        self._embeddings = 0
        """Batches that are waited for."""
        self._embeddings_since = 0.0
        """When the first of them was asked for, by `awake.now`."""
        self.lost = watch.lost
        self._tokenizers = Tokenizers(self._manager, engine.template_manager)
        tokenizer = self._tokenizers.loop.tokenizer
        self._exchange = Exchange(
            self._manager,
            Vocabulary(tokenizer),
            detokenizer_of(self._manager) if reads_ids else None,
            widest_stride=widest_stride,
        )
        self._grammar_vocabulary: GrammarVocabulary | None = None
        self._infill = Infill.of(tokenizer)
        self._pictures = pictures
        self._adapters = adapters
        self._resolved: dict[str, Any] = dict(engine.server_args.resolved_dict())
        """SGLang's options; its `server_args` themselves have some of them as they were given."""
        self.info = self._read_info(pools, fingerprint, called)
        self._profiler = Profiler(self._manager)
        self._excused_s = _EXCUSED_ON_CPU_S if self.info.device == "cpu" else _EXCUSED_S
        # Between nodes the snapshots of the replicas are read only when a request is sent.
        self._one_node = engine.server_args.nnodes == 1
        self._pulse = Pulse(
            self._manager,
            watch.owner,
            self.silent_s,
            lambda: self._exchange.heard_at,
            lambda: self._exchange.searches,
            longest=self.info.context_length + 2 * (self._resolved["max_prefill_tokens"] or 0),
            on_cpu=self.info.device == "cpu",
        )
        self._take_over()

    def _read_info(self, pools: Pooling | None, fingerprint: str, called: str) -> EngineInfo:
        from sglang.version import __version__

        model, args = self._manager.model_config, self._resolved
        scheduler = self._engine._scheduler_init_result.scheduler_infos[0]
        renderer = self._tokenizers.loop.renderer
        context = self._manager.context_len
        return EngineInfo(
            model_path=called or args["model_path"],
            version=f"sglang {__version__}",
            fingerprint=fingerprint,
            device=args["device"],
            # Of the model's own context SGLang keeps a few tokens (0.5.23: scheduler.py).
            context_length=scheduler["max_req_input_len"] if pools is None else context,
            max_prompt_tokens=(scheduler["max_req_input_len"] if pools is None else context) - 1,
            vocab_size=model.vocab_size,
            model_type=getattr(model.hf_config, "model_type", None),
            architectures=tuple(getattr(model.hf_config, "architectures", None) or ()),
            honours_seed=bool(args["enable_deterministic_inference"]),
            drafts=args["speculative_algorithm"] is not None,
            default_sampling=valid_defaults(
                model.get_default_sampling_params() | self._default_sampling,
                self._manager.preferred_sampling_params or {},
            ),
            tool_call_parser=renderer.tool_call_parser,
            reasoning_parser=renderer.reasoning_parser,
            bounds_thinking=renderer.reasoning_parser not in ENDED_BY_ANY_MARKER,
            caches_prefixes=not args["disable_radix_cache"],
            takes_pictures=self._pictures is not None,
            picture_marker=self._pictures.marker if self._pictures is not None else "",
            picture_pattern=self._pictures.pattern if self._pictures is not None else None,
            picture_markers=self._pictures.markers if self._pictures is not None else (),
            serves_adapters=self._adapters is not None,
            searches_beams=searches_beams(args),
            fills_middle=self._infill is not None,
            embedding_size=pools.size if pools else None,
            dimensions=pools.dimensions if pools and pools.matryoshka else None,
        )

    def _take_over(self) -> None:
        manager = self._manager
        if manager._subprocess_watchdog is not None:
            manager._subprocess_watchdog.stop()
        # SGLang's auto_create_handle_loop() finds its loop set and starts no reader: `Exchange`
        # reads.
        manager.event_loop = asyncio.get_running_loop()
        self._exchange.broken.add_done_callback(self._lose)

    def _lose(self, broken: asyncio.Future[str]) -> None:
        if not broken.cancelled() and not self.lost.done():
            self.lost.set_result(broken.result())

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        tokenizer = self._tokenizers.here().tokenizer
        ids: list[int] = (
            tokenizer.encode(text) if special else tokenizer.encode(text, add_special_tokens=False)
        )
        return ids

    def decode(self, ids: Sequence[int], *, special: bool = True) -> str:
        tokenizer = self._tokenizers.here().tokenizer
        text: str = tokenizer.decode(list(ids), skip_special_tokens=not special)
        return text

    @property
    def serves(self) -> Engine:
        return self

    def all_warm(self) -> None:
        pass

    def grammar_vocabulary(self) -> GrammarVocabulary | None:
        return self._grammar_vocabulary

    def infill(self, prefix: str, suffix: str) -> list[int]:
        assert self._infill is not None
        return self._infill.prompt(self._tokenizers.here().tokenizer, prefix, suffix)

    def render(self, chat: ChatPrompt, grammar: Grammar | None) -> Rendered:
        return self._tokenizers.here().renderer.render(chat, grammar)

    def picture_tokens(self, sizes: Sequence[tuple[int, int]]) -> list[int] | None:
        return self._pictures.tokens(sizes) if self._pictures is not None else None

    async def see(self, rendered: Rendered, pictures: Sequence[Decoded], *, param: str) -> Rendered:
        assert self._pictures is not None
        return await self._pictures.see(rendered, pictures, param=param)

    async def generate(
        self, question: Question, *, id: str, choices: int
    ) -> AsyncGenerator[Chunk, None]:
        params = sampling_params(
            question.sampling,
            defaults=self.info.default_sampling,
            honours_seed=self.info.honours_seed,
            whole=question.whole,
            thinks=question.gates_grammar,
        )
        exchange = self._exchange
        inbox = exchange.inbox()
        pending: list[Pending] = []
        cached: int | None = None
        media: list[Any] = []
        try:
            if question.sampling.beam_width is not None:
                params["n"] = choices  # of the beams, in one request
            if choices == 1 or "n" in params:
                await prepare(question.inputs, media)
                pending.append(exchange.ask(id, question, params, inbox, media=media))
            else:
                cached = await self._read_once(id, question, params, media)
                for choice in range(choices):
                    # One by one: if one is refused, those asked before it must be aborted.
                    await prepare(question.inputs, media)
                    each = f"{id}-{choice:04}"
                    request = exchange.ask(each, question, params, inbox, choice, media=media)
                    pending.append(request)
            unfinished = choices
            while unfinished:
                for chunk in await inbox.take():
                    unfinished -= chunk.finish is not None
                    yield (
                        chunk
                        if cached is None
                        else msgspec.structs.replace(
                            chunk, cached_tokens=min(cached, chunk.cached_tokens)
                        )
                    )
        except ValueError as error:
            raise refused(error) from error
        finally:
            if media:  # not sent
                discard(media)
            for request in pending:
                exchange.abort(request)

    async def _read_once(
        self, id: str, question: Question, params: dict[str, Any], media: list[Any]
    ) -> int:
        """Have the prompt read into the prefix cache, so that several choices share it.

        Returns how many of its tokens were cached before; the choices report all of them.
        """
        inbox = self._exchange.inbox()
        await prepare(question.inputs, media)
        request = self._exchange.ask(
            f"{id}-once",
            question,
            params | {"max_new_tokens": 0, "min_new_tokens": 0},
            inbox,
            media=media,
        )
        try:
            (chunk,) = await inbox.take()
        finally:
            self._exchange.abort(request)
        return chunk.cached_tokens

    async def embed(
        self, prompts: Sequence[list[int]], *, id: str, dimensions: int | None = None
    ) -> list[Embedding]:
        from sglang.srt.managers.io_struct import EmbeddingReqInput

        request = EmbeddingReqInput(
            input_ids=list(prompts),
            rid=[f"{id}-{no:04}" for no in range(len(prompts))],
            dimensions=dimensions,
        )
        if not self._embeddings:
            self._embeddings_since = awake.now()
        self._embeddings += 1
        try:
            async with aclosing(self._manager.generate_request(request, None)) as stream:
                results = await anext(stream)
        except ValueError as error:
            raise refused(error) from error
        finally:
            self._embeddings -= 1
        return [vector_of(result) for result in results]

    async def load_adapter(self, name: str, path: str) -> str:
        assert self._adapters is not None
        return await self._adapters.load(name, path)

    async def unload_adapter(self, id: str) -> None:
        assert self._adapters is not None
        await self._adapters.unload(id)

    async def loads(self) -> list[Load]:
        return [
            Load(
                replica=load.dp_rank,
                running=load.num_running_reqs,
                waiting=load.num_waiting_reqs,
                used_tokens=load.num_used_tokens,
                max_tokens=load.max_total_num_tokens,
                tokens_per_s=load.gen_throughput,
                max_running=load.max_running_requests,
            )
            for load in await read_loads(self._manager.load_snapshot_reader)
        ]

    def options(self) -> Json:
        from app.settings.secrets import redacted

        return redacted(dict(self._resolved))

    async def flush_cache(self) -> bool:
        return bool((await self._manager.flush_cache()).success)

    async def profile(self, options: Json | None) -> None:
        await self._profiler.run(options)

    def silent_s(self) -> float:
        owed = [self._exchange.asked_at] if self._exchange.owes else []
        if self._embeddings:
            owed.append(self._embeddings_since)
        now = awake.now()
        if self._profiler.is_busy:
            return _HARDLY  # in every process of the server: it holds for all
        if not owed:
            return 0.0
        heard_at = max(self._exchange.heard_at, self._profiler.ended_at, min(owed))
        # Work without a word is an excuse for some time: a detokenizer may hang while the scheduler
        # goes on.
        worked_at = 0.0 if self._pulse.stopped else self._pulse.worked_at
        if not self._exchange.searches:
            worked_at = min(worked_at, heard_at + self._excused_s)
        spoken_at = max(heard_at, worked_at)
        if self._one_node and (slowest_at := self._pulse.slowest_at) is not None:
            spoken_at = min(spoken_at, max(slowest_at, min(owed)))
        return max(_HARDLY, now - spoken_at)

    async def warm_up(self) -> None:
        # Several processes may warm up at once, and the engine tells requests apart by their ids.
        id = "warmup" + uuid.uuid4().hex[6:]
        if not self.info.embeds:
            self._grammar_vocabulary = await asyncio.to_thread(self._tokenizers.for_grammars)
        prompt = self.encode("Hello") or [0]
        if self.info.embeds:
            (embedding,) = await self.embed([prompt], id=id)
            if len(embedding.vector) != self.info.embedding_size:
                raise StartError("the engine did not give a vector when it was warmed up")
        else:
            for no in range(self._resolved["dp_size"]):
                await self._generate_first(prompt, id=f"{id[:-2]}{no % 256:02x}")
            if self._pictures is not None:
                await self._see_first()
        # Freeze the heap of the engine's processes, so that garbage collections skip the model.
        await self._manager.freeze_gc()

    async def _generate_first(self, prompt: list[int], *, id: str, inputs: Any = None) -> None:
        sampling = Sampling(max_tokens=1, temperature=0.0, ignore_eos=True)
        if self.info.device != "cpu":
            # The kernels of decoding and of sampling are compiled when they are first needed, in
            # up to minutes (94 s on an H100): not while clients wait.
            sampling = Sampling(max_tokens=4, temperature=1.0, top_p=0.9, top_k=20, ignore_eos=True)
        question = Question(prompt=prompt, sampling=sampling, inputs=inputs)
        async with aclosing(self.generate(question, id=id, choices=1)) as stream:
            tokens = [chunk.completion_tokens async for chunk in stream]
        if tokens[-1:] != [sampling.max_tokens]:
            raise StartError("the engine did not generate a token when it was warmed up")

    async def _see_first(self) -> None:
        """A model that cannot be shown a picture is served for text."""
        try:
            rendered = self.render(WARM_UP, None)
            if rendered.pictures != (0,):
                raise InvalidRequest("the chat template has no place for it")
            rendered = await self.see(rendered, [GREY], param="warm-up")
            await self._generate_first(
                rendered.ids, id="warmup" + uuid.uuid4().hex[6:], inputs=rendered.inputs
            )
        except ServeError as error:
            log.warning("the model is served for text: it took no picture", reason=error.message)
            self.info = msgspec.structs.replace(self.info, takes_pictures=False)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._pictures is not None:
            self._pictures.close()
        if self._adapters is not None:
            self._adapters.close()
        self._watch.close()
        self._pulse.close()
        await end_schedulers(self._manager, self._watch)
        self._exchange.close()
        await asyncio.to_thread(self._engine.shutdown)
