"""`Engine` over `sglang.Engine.async_generate`."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from typing import Any

from app import awake
from app.engine.base import Chunk, Embedding, Engine, Load, Question, Rendered, Watched
from app.engine.inbox import Inbox
from app.engine.sglang.endings import refused
from app.engine.sglang.infill import Infill
from app.engine.sglang.public.answers import Choice
from app.engine.sglang.public.bridge import Bridge
from app.engine.sglang.public.model import PublicModel
from app.engine.sglang.public.rendering import Tokenizing
from app.engine.sglang.sampling_names import sampling_params
from app.errors import InternalError, InvalidRequest, ServeError, StartError, UnsupportedParameter
from app.grammars.compiler import Vocabulary as GrammarVocabulary
from app.grammars.lowering import limits_of
from app.lifecycle import Phase
from app.logs.setup import log
from app.media.picture import Decoded
from app.types import ChatPrompt, Grammar, Json, Sampling

_HARDLY = 1e-9
"""Seconds of silence of an engine that has work, and is not silent."""
_EXCUSED_S, _EXCUSED_ON_CPU_S = 600.0, 3600.0
"""Nothing public shows whether a silent engine works; a long prompt is read without a word."""
_SHUT_DOWN_WITHIN_S = 70.0
"""SGLang waits up to 60 s for its processes."""


class PublicEngine:
    """A model behind SGLang's public API only."""

    phase_when_up = Phase.WARMING
    memory = None

    def __init__(
        self, bridge: Bridge, watch: Watched, model: PublicModel, tokenizing: Tokenizing
    ) -> None:
        """On the event loop, whose thread has the first pair of `tokenizing`."""
        self._bridge = bridge
        self._watch = watch
        self.lost = watch.lost
        self._model = model
        self.info = model.info
        self._tokenizing = tokenizing
        self._vocabulary = tokenizing.vocabulary
        self._infill = Infill.of(tokenizing.here()[0])
        self._grammar_vocabulary: GrammarVocabulary | None = None
        self._running: set[Choice] = set()
        self._asked_at = self._heard_at = 0.0
        """By `awake.now`: when the first of those was asked for, and when the engine last spoke."""
        self._closed = False

    @property
    def serves(self) -> Engine:
        return self

    def all_warm(self) -> None:
        pass

    # -- prompts -----------------------------------------------------------------------------

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        tokenizer, _ = self._tokenizing.here()
        return list(tokenizer.encode(text, add_special_tokens=special))

    def decode(self, ids: Sequence[int], *, special: bool = True) -> str:
        tokenizer, _ = self._tokenizing.here()
        return str(tokenizer.decode(list(ids), skip_special_tokens=not special))

    def grammar_vocabulary(self) -> GrammarVocabulary | None:
        return self._grammar_vocabulary

    def infill(self, prefix: str, suffix: str) -> list[int]:
        assert self._infill is not None
        tokenizer, _ = self._tokenizing.here()
        return self._infill.prompt(tokenizer, prefix, suffix)

    def render(self, chat: ChatPrompt, grammar: Grammar | None) -> Rendered:
        _, renderer = self._tokenizing.here()
        return renderer.render(chat, grammar)

    def picture_tokens(self, sizes: Sequence[tuple[int, int]]) -> list[int] | None:
        return None

    async def see(self, rendered: Rendered, pictures: Sequence[Decoded], *, param: str) -> Rendered:
        raise InvalidRequest("This model takes no pictures.", param=param)

    # -- answers -----------------------------------------------------------------------------

    async def generate(
        self, question: Question, *, id: str, choices: int
    ) -> AsyncGenerator[Chunk, None]:
        params = self._params(question)
        inbox = Inbox()
        asked: list[tuple[Choice, Future[None]]] = []
        try:
            for index in range(choices):
                choice = Choice(index, question, self._vocabulary)
                if not self._running:
                    self._asked_at = awake.now()
                self._running.add(choice)
                work = self._answer(f"{id}-{index:04}", question, params, choice, inbox)
                asked.append((choice, self._bridge.start(work)))
            unfinished = choices
            while unfinished:
                chunks = await inbox.take()
                self._heard_at = awake.now()
                for chunk in chunks:
                    unfinished -= chunk.finish is not None
                    yield chunk
        finally:
            for choice, work_there in asked:
                self._running.discard(choice)
                work_there.cancel()

    def _params(self, question: Question) -> dict[str, Any]:
        """Raises UnsupportedParameter for what SGLang's API cannot be given."""
        params = sampling_params(
            question.sampling,
            defaults=self.info.default_sampling,
            honours_seed=self.info.honours_seed,
            whole=False,
            thinks=False,
        )
        if (grammar := question.sampling.grammar) is not None:
            del params["ebnf"]
            if grammar.kind != "json_schema" or grammar.compiled is None:
                raise UnsupportedParameter(
                    f"A {grammar.kind} is not supported while the model is served by SGLang's "
                    "public API only.",
                    param=grammar.param,
                )
            params["json_schema"] = tried_schema(grammar.compiled)
        if question.cache_scope and not self._model.separates_caches:
            raise UnsupportedParameter(
                "Caches cannot be separated while the model is served by this release of SGLang.",
                param="cache_salt",
            )
        if "stop_token_ids" in params:
            params["stop_token_ids"] = sorted(params["stop_token_ids"])
        return params

    async def _answer(
        self, id: str, question: Question, params: dict[str, Any], choice: Choice, inbox: Inbox
    ) -> None:
        """On the engine's loop: one choice, from SGLang into the inbox."""
        tell = self.lost.get_loop().call_soon_threadsafe
        engine = self._bridge.engine
        failed: Exception = InternalError("The engine could not answer this request.")
        ended = False
        try:
            stream = await engine.async_generate(
                input_ids=question.prompt,
                sampling_params=dict(params),
                stream=True,
                rid=id,
                **_asked_for(question),
            )
            async with aclosing(stream):
                while not ended:
                    try:
                        output = await anext(stream)
                    except ValueError as error:
                        raise refused(error) from error
                    chunk = choice.chunk(output)
                    ended = chunk.finish is not None
                    tell(_put, inbox, chunk)
        except ServeError as error:
            failed = error
        except StopAsyncIteration:
            log.error("SGLang's API ended an answer without a reason", id=id)
        except asyncio.CancelledError:
            if not ended:
                engine.tokenizer_manager.abort_request(rid=id)
            raise
        except Exception as error:  # SGLang's may be anything; the request gets its answer below
            log.error("SGLang's API failed", exc_info=error)
        finally:
            if not ended:
                tell(inbox.fail, failed)

    async def embed(
        self, prompts: Sequence[list[int]], *, id: str, dimensions: int | None = None
    ) -> list[Embedding]:
        raise InternalError("This engine generates.")

    async def load_adapter(self, name: str, path: str) -> str:
        raise InternalError("This engine has no adapters.")

    async def unload_adapter(self, id: str) -> None:
        raise InternalError("This engine has no adapters.")

    # -- its life ----------------------------------------------------------------------------

    async def loads(self) -> list[Load]:
        """By what this server has asked for: nothing public tells it of a replica."""
        replicas = self._model.replicas
        tokens = sum(choice.tokens for choice in self._running)
        return [
            Load(
                replica=replica,
                running=-(-len(self._running) // replicas),
                waiting=0,
                used_tokens=tokens // replicas,
                max_tokens=self._model.max_tokens,
                tokens_per_s=0.0,
                max_running=self._model.max_running,
            )
            for replica in range(replicas)
        ]

    def options(self) -> Json:
        from app.settings.secrets import redacted

        return redacted(dict(self._model.options))

    async def flush_cache(self) -> bool:
        raise InvalidRequest("The cache cannot be emptied while the model is served by SGLang's "
                             "public API only.")  # fmt: skip

    async def profile(self, options: Json | None) -> None:
        raise InvalidRequest("There is no profiler while the model is served by SGLang's public "
                             "API only.")  # fmt: skip

    def silent_s(self) -> float:
        if not self._running:
            return 0.0
        excused = _EXCUSED_ON_CPU_S if self.info.device == "cpu" else _EXCUSED_S
        return max(_HARDLY, awake.now() - max(self._heard_at, self._asked_at) - excused)

    async def warm_up(self) -> None:
        self._grammar_vocabulary = await asyncio.to_thread(
            self._tokenizing.for_grammars, self.info.vocab_size, self._model.ends
        )
        sampling = Sampling(max_tokens=1, temperature=0.0, ignore_eos=True)
        if self.info.device != "cpu":
            # The kernels of decoding and of sampling are compiled when they are first needed.
            sampling = Sampling(max_tokens=4, temperature=1.0, top_p=0.9, top_k=20, ignore_eos=True)
        question = Question(prompt=self.encode("Hello") or [0], sampling=sampling)
        for _ in range(self._model.replicas):
            id = "warmup" + uuid.uuid4().hex[6:]
            async with aclosing(self.generate(question, id=id, choices=1)) as stream:
                tokens = [chunk.completion_tokens async for chunk in stream]
            if tokens[-1:] != [sampling.max_tokens]:
                raise StartError("the engine did not generate a token when it was warmed up")

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._watch.close()
        try:
            await asyncio.wait_for(self._bridge.shut_down(), _SHUT_DOWN_WITHIN_S)
        except TimeoutError:
            log.error("SGLang has not ended its processes", within_s=_SHUT_DOWN_WITHIN_S)


def _asked_for(question: Question) -> dict[str, Any]:
    """What few requests ask for, by SGLang's names."""
    more: dict[str, Any] = {}
    if question.cache_scope:
        more["cache_salt"] = question.cache_scope
    if (scoring := question.scoring) is not None:
        start = -1 if scoring.prompt_from is None else scoring.prompt_from
        more |= {
            "return_logprob": True,
            "logprob_start_len": start,
            "top_logprobs_num": scoring.top,
        }
    return more


def tried_schema(compiled: str) -> str:
    """The schema of a grammar as it was tried: a client's own may end the engine. `compiled`: of
    kind json_schema (app/grammars/lowering.py)."""
    (grammar,) = json.loads(limits_of(compiled)[0])["grammars"]
    return json.dumps(grammar["json_schema"])


def _put(inbox: Inbox, chunk: Chunk) -> None:
    inbox.put(chunk)
    inbox.wake()
