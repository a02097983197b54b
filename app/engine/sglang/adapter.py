"""The SGLang engine inside this process: `Engine` over `sglang.Engine`.

Written against sglang 0.5.23; `tests/engine/test_sglang_contract.py` fails first when it changes.
engine/sglang/launch.py builds it.
"""

from __future__ import annotations

import asyncio
import copy
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
import numpy as np

from app.engine.base import Chunk, Embedding, Engine, EngineInfo, Load, Question, Rendered, Watched
from app.engine.sglang.chat import ChatRenderer
from app.engine.sglang.exchange import Exchange, Pending, aborted
from app.engine.sglang.pooling import Pooling
from app.engine.sglang.tokens import Vocabulary, use_fast_encode
from app.errors import InvalidRequest, StartError
from app.lifecycle import Phase
from app.logs.setup import log
from app.types import ChatPrompt, Grammar, Json, Sampling

_CLOSE_TIMEOUT_S = 10.0
_WHOLE_INTERVAL = 64
"""Tokens between two signs of life of an answer that nobody reads as it comes."""
# (before the prefix, before the suffix, before the middle): what models trained to fill gaps call
# these tokens. Codestral's suffix comes first and nothing stands before the middle.
_GAP_TOKENS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"),
    ("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>"),
    ("[PREFIX]", "[SUFFIX]", ""),
)


class SGLangEngine:
    """`Engine` over sglang.Engine."""

    phase_when_up = Phase.WARMING

    def __init__(
        self, engine: Any, pools: Pooling | None, watch: Watched, *, widest_stride: int = 1
    ) -> None:
        from sglang.version import __version__

        self._engine = engine
        self._manager = engine.tokenizer_manager
        self._watch = watch
        self._closed = False
        self._in_flight = 0
        self._asked_since = 0.0
        self.lost = watch.lost
        self._tokenizer = self._manager.tokenizer
        # The fast tokenizers forbid use from two threads at once; prompts are prepared in one
        # thread beside the loop, stop strings are tokenised by SGLang on the loop.
        self._thread_tokenizer = copy.deepcopy(self._tokenizer)
        for each in (self._tokenizer, self._thread_tokenizer):
            use_fast_encode(each)
        self._loop_thread = threading.get_ident()
        self._renderer, self._thread_renderer = (
            ChatRenderer(self._manager, engine.template_manager, each)
            for each in (self._tokenizer, self._thread_tokenizer)
        )
        self._vocabulary = Vocabulary(self._tokenizer)
        self._exchange = Exchange(self._manager, self._vocabulary, widest_stride=widest_stride)
        self._serialised_vocabulary: str | None = None
        self._gap = _gap_tokens(self._tokenizer)
        self._first_token = next(iter(self._tokenizer("")["input_ids"]), None)

        model, args = self._manager.model_config, engine.server_args
        scheduler = engine._scheduler_init_result.scheduler_infos[0]
        self.info = EngineInfo(
            model_path=args.model_path,
            version=f"sglang {__version__}",
            device=args.device,
            context_length=self._manager.context_len,
            max_prompt_tokens=(
                scheduler["max_req_input_len"] - 1
                if pools is None
                else self._manager.context_len - 1
            ),
            vocab_size=model.vocab_size,
            model_type=getattr(model.hf_config, "model_type", None),
            architectures=tuple(getattr(model.hf_config, "architectures", None) or ()),
            honours_seed=bool(args.enable_deterministic_inference),
            default_sampling=model.get_default_sampling_params(),
            tool_call_parser=self._renderer.tool_call_parser,
            reasoning_parser=self._renderer.reasoning_parser,
            fills_middle=self._gap is not None,
            embedding_size=pools.size if pools else None,
            dimensions=pools.dimensions if pools and pools.matryoshka else None,
        )
        self._take_over()

    def _take_over(self) -> None:
        manager = self._manager
        if manager._subprocess_watchdog is not None:
            manager._subprocess_watchdog.stop()
        # auto_create_handle_loop() then has nothing left to do; `Exchange` reads.
        manager.event_loop = asyncio.get_running_loop()
        self._exchange.broken.add_done_callback(self._lose)

    def _lose(self, broken: asyncio.Future[str]) -> None:
        if not broken.cancelled() and not self.lost.done():
            self.lost.set_result(broken.result())

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._own_tokenizer().encode(text)
        return ids

    def decode(self, ids: Sequence[int], *, special: bool = True) -> str:
        text: str = self._own_tokenizer().decode(list(ids), skip_special_tokens=not special)
        return text

    @property
    def serves(self) -> Engine:
        return self

    def all_warm(self) -> None:
        pass

    def grammar_vocabulary(self) -> str | None:
        return self._serialised_vocabulary

    def _serialise_vocabulary(self) -> str | None:
        from xgrammar import TokenizerInfo

        if self._engine.server_args.grammar_backend not in (None, "xgrammar"):
            return None
        try:
            vocabulary = TokenizerInfo.from_huggingface(
                self._thread_tokenizer, vocab_size=self.info.vocab_size
            )
            return str(vocabulary.serialize_json())
        except Exception:  # a tokenizer of another kind; the engine still compiles for itself
            log.warning("grammars are not tried before the engine gets them", exc_info=True)
            return None

    def infill(self, prefix: str, suffix: str) -> list[int]:
        assert self._gap is not None
        tokenizer = self._own_tokenizer()
        texts = [
            tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prefix, suffix)
        ]
        before_prefix, before_suffix, before_middle = self._gap
        first = [bos] if (bos := self._first_token) is not None else []
        if before_middle is None:
            return [*first, before_suffix, *texts[1], before_prefix, *texts[0]]
        return [*first, before_prefix, *texts[0], before_suffix, *texts[1], before_middle]

    def render(self, chat: ChatPrompt, grammar: Grammar | None) -> Rendered:
        on_loop = threading.get_ident() == self._loop_thread
        return (self._renderer if on_loop else self._thread_renderer).render(chat, grammar)

    async def generate(
        self, question: Question, *, id: str, choices: int
    ) -> AsyncGenerator[Chunk, None]:
        params = self._sampling_params(question.sampling, question.whole)
        exchange = self._exchange
        inbox = exchange.inbox()
        pending: list[Pending] = []
        cached: int | None = None
        self._began()
        try:
            if choices == 1:
                pending.append(exchange.ask(id, question, params, inbox))
            else:
                cached = await self._read_once(id, question, params)
                for choice in range(choices):
                    # One by one: what was asked before one is refused has to be aborted.
                    request = exchange.ask(f"{id}-{choice:04}", question, params, inbox, choice)
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
            raise _refused(error) from error
        finally:
            self._in_flight -= 1
            for request in pending:
                exchange.abort(request)

    async def _read_once(self, id: str, question: Question, params: dict[str, Any]) -> int:
        """Have the prompt read into the prefix cache, so that several choices share it; returns how
        many of its tokens were there before, which the choices cannot tell any more."""
        inbox = self._exchange.inbox()
        request = self._exchange.ask(
            f"{id}-once", question, params | {"max_new_tokens": 0, "min_new_tokens": 0}, inbox
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
            input_ids=list(prompts), rid=[f"{id}-{no:04}" for no in range(len(prompts))],
            dimensions=dimensions,
        )  # fmt: skip
        self._began()
        try:
            async with aclosing(self._manager.generate_request(request, None)) as stream:
                found = await anext(stream)
        except ValueError as error:
            raise _refused(error) from error
        finally:
            self._in_flight -= 1
        return [_embedding(each) for each in found]

    async def loads(self) -> list[Load]:
        return [
            Load(
                replica=each.dp_rank,
                running=each.num_running_reqs,
                waiting=each.num_waiting_reqs,
                used_tokens=each.num_used_tokens,
                max_tokens=each.max_total_num_tokens,
                tokens_per_s=each.gen_throughput,
                max_running=each.max_running_requests,
            )
            for each in await self._manager.get_loads(include=["core"])
        ]

    def options(self) -> Json:
        from app.settings.secrets import redacted

        return redacted(dict(self._engine.server_args.resolved_dict()))

    async def flush_cache(self) -> bool:
        return bool((await self._manager.flush_cache()).success)

    async def profile(self, options: Json | None) -> None:
        from sglang.srt.managers.io_struct import ProfileReq

        try:
            if options is None:
                await self._manager.stop_profile()
            else:
                await self._manager.start_profile(ProfileReq(**options))
        except RuntimeError as error:
            raise InvalidRequest(f"The profiler refuses: {error}"[:400]) from error

    def silent_s(self) -> float:
        if not self._in_flight:
            return 0.0
        return max(0.0, time.monotonic() - max(self._exchange.heard_at, self._asked_since))

    async def warm_up(self) -> None:
        # Several processes may warm up at once, and the engine tells requests apart by their ids.
        id = "warmup" + uuid.uuid4().hex[6:]
        self._serialised_vocabulary = await asyncio.to_thread(self._serialise_vocabulary)
        prompt = self.encode("Hello") or [0]
        if self.info.embeds:
            (found,) = await self.embed([prompt], id=id)
            if len(found.vector) != self.info.embedding_size:
                raise StartError("the engine did not give a vector when it was warmed up")
        else:
            sampling = Sampling(max_tokens=1, temperature=0.0, ignore_eos=True)
            question = Question(prompt=prompt, sampling=sampling)
            async with aclosing(self.generate(question, id=id, choices=1)) as stream:
                tokens = [chunk.completion_tokens async for chunk in stream]
            if tokens[-1:] != [1]:
                raise StartError("the engine did not generate a token when it was warmed up")
        # What is there now stays: no collection in the engine's processes need look at it again.
        await self._manager.freeze_gc()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._watch.close()
        await end_schedulers(self._manager, self._watch)
        self._exchange.close()
        await asyncio.to_thread(self._engine.shutdown)

    def _own_tokenizer(self) -> Any:
        on_loop = threading.get_ident() == self._loop_thread
        return self._tokenizer if on_loop else self._thread_tokenizer

    def _began(self) -> None:
        if not self._in_flight:
            self._asked_since = time.monotonic()
        self._in_flight += 1

    def _sampling_params(self, sampling: Sampling, whole: bool) -> dict[str, Any]:
        """SGLang's names; only what differs from its defaults, which it then need not check."""
        params: dict[str, Any] = dict(self.info.default_sampling)
        if whole:
            params["stream_interval"] = _WHOLE_INTERVAL
        # Absent would mean 128; None means up to the end of the context.
        params["max_new_tokens"] = sampling.max_tokens
        for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty"):
            if (value := getattr(sampling, name)) is not None:
                params[name] = value
        if sampling.min_tokens:
            params["min_new_tokens"] = sampling.min_tokens
        if sampling.frequency_penalty:
            params["frequency_penalty"] = sampling.frequency_penalty
        if sampling.presence_penalty:
            params["presence_penalty"] = sampling.presence_penalty
        if sampling.stop:
            params["stop"] = list(sampling.stop)
        if sampling.stop_token_ids:
            params["stop_token_ids"] = set(sampling.stop_token_ids)
        if sampling.ignore_eos:
            params["ignore_eos"] = True
        if not sampling.skip_special_tokens:
            params["skip_special_tokens"] = False
        if sampling.logit_bias:
            params["logit_bias"] = sampling.logit_bias
        if sampling.seed is not None and self.info.honours_seed:
            params["sampling_seed"] = sampling.seed
        if (grammar := sampling.grammar) is not None:
            params[grammar.kind] = grammar.text
            if grammar.covers_thinking:
                params["ebnf_full_assistant"] = True
        return params


async def end_schedulers(manager: Any, watch: Watched) -> None:
    """SGLang's schedulers release GPU memory and NCCL only when they are asked to end."""
    from sglang.srt.managers.io_struct import ShutdownReq

    schedulers = [p for p in watch.processes if p.is_alive() and "scheduler" in p.name]
    if not schedulers:
        return
    manager._dispatch_to_scheduler(ShutdownReq())
    deadline = time.monotonic() + _CLOSE_TIMEOUT_S
    while any(p.is_alive() for p in schedulers) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.05)


def _embedding(found: dict[str, Any]) -> Embedding:
    finish = found["meta_info"].get("finish_reason") or {}
    if finish.get("type") == "abort" or "embedding" not in found:
        raise aborted(finish)
    # SGLang normalises in the model's own precision, which may be half.
    vector = np.asarray(found["embedding"], dtype=np.float32)
    length = float(np.linalg.norm(vector.astype(np.float64))) or 1.0
    return Embedding((vector / np.float32(length)).tolist(), found["meta_info"]["prompt_tokens"])


def _refused(error: ValueError) -> InvalidRequest:
    """Before its first output SGLang refuses a request this way. Ours are checked before they get
    there, so this names a bound that we do not know of."""
    log.warning("SGLang refused a request", reason=str(error)[:400])
    return InvalidRequest(str(error)[:400])


def _gap_tokens(tokenizer: Any) -> tuple[int, int, int | None] | None:
    vocabulary = tokenizer.get_vocab()
    for prefix, suffix, middle in _GAP_TOKENS:
        if prefix in vocabulary and suffix in vocabulary and (not middle or middle in vocabulary):
            return vocabulary[prefix], vocabulary[suffix], vocabulary.get(middle)
    return None
