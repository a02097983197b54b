"""`Engine` over `sglang.Engine.async_generate`."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from typing import Any

from app.engine.base import Chunk, Embedding, Engine, EngineInfo, Load, Question, Rendered, Watched
from app.engine.inbox import Inbox
from app.engine.sglang.endings import refused
from app.engine.sglang.infill import Infill
from app.engine.sglang.public.answers import Choice
from app.engine.sglang.public.bridge import Bridge
from app.engine.sglang.public.rendering import Tokenizing, byte_values
from app.engine.sglang.sampling_names import sampling_params
from app.engine.sglang.tokenizers import vocabulary_of
from app.engine.sglang.tokens import Vocabulary
from app.errors import InternalError, InvalidRequest, ServeError, StartError, UnsupportedParameter
from app.grammars.compiler import Vocabulary as GrammarVocabulary
from app.lifecycle import Phase
from app.logs.setup import log
from app.media.picture import Decoded
from app.types import ChatPrompt, Grammar, Json, Sampling

_BY_KIND = {"json_schema": "json_schema", "regex": "regex"}
"""Kinds of grammars -> SGLang's parameter."""
_HARDLY = 1e-9


class PublicEngine:
    """A model behind SGLang's public API only."""

    phase_when_up = Phase.WARMING
    memory = None

    def __init__(
        self,
        bridge: Bridge,
        watch: Watched,
        tokenizing: Tokenizing,
        info: EngineInfo,
        options: Json,
        ends: Sequence[int],
    ) -> None:
        """`options`: SGLang's, resolved. `ends`: ids that end an answer; empty: the tokenizer's."""
        self._ends = ends
        self._bridge = bridge
        self._watch = watch
        self.lost = watch.lost
        self.info = info
        self._tokenizing = tokenizing
        self._options = options
        tokenizer, _ = tokenizing.here()
        self._vocabulary = Vocabulary(tokenizer, byte_values(tokenizer))
        self._infill = Infill.of(tokenizer)
        self._grammar_vocabulary: GrammarVocabulary | None = None
        self._owed = 0
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
        running: list[Future[None]] = []
        self._owed += 1
        try:
            for choice in range(choices):
                each = Choice(choice, question, self._vocabulary)
                work = self._answer(f"{id}-{choice:04}", question, params, each, inbox)
                running.append(self._bridge.start(work))
            unfinished = choices
            while unfinished:
                for chunk in await inbox.take():
                    unfinished -= chunk.finish is not None
                    yield chunk
        finally:
            self._owed -= 1
            for work_there in running:
                work_there.cancel()

    def _params(self, question: Question) -> dict[str, Any]:
        """Raises UnsupportedParameter for a grammar that SGLang's API cannot be given."""
        params = sampling_params(
            question.sampling,
            defaults=self.info.default_sampling,
            honours_seed=self.info.honours_seed,
            whole=False,
            thinks=False,
        )
        if (grammar := question.sampling.grammar) is not None:
            del params["ebnf"]
            if (name := _BY_KIND.get(grammar.kind)) is None:
                raise UnsupportedParameter(
                    f"A {grammar.kind} is not supported while the model is served by SGLang's "
                    "public API only.",
                    param=grammar.param,
                )
            params[name] = grammar.text
        if "stop_token_ids" in params:
            params["stop_token_ids"] = sorted(params["stop_token_ids"])
        return params

    async def _answer(
        self, id: str, question: Question, params: dict[str, Any], choice: Choice, inbox: Inbox
    ) -> None:
        """On the engine's loop: one choice, from SGLang into the inbox."""
        scoring = question.scoring
        scores: dict[str, Any] = {}
        if scoring is not None:
            start = -1 if scoring.prompt_from is None else scoring.prompt_from
            scores = {"return_logprob": True, "logprob_start_len": start,
                      "top_logprobs_num": scoring.top}  # fmt: skip
        here = self.lost.get_loop()
        engine, ended = self._bridge.engine, False
        try:
            stream = await engine.async_generate(
                input_ids=question.prompt,
                sampling_params=dict(params),
                stream=True,
                rid=id,
                **scores,
            )
            async with aclosing(stream):
                async for output in stream:
                    chunk = choice.chunk(output)
                    ended = chunk.finish is not None
                    here.call_soon_threadsafe(_put, inbox, chunk)
            if not ended:
                raise InternalError("The engine ended this request without a reason.")
        except ValueError as error:
            here.call_soon_threadsafe(inbox.fail, refused(error))
        except ServeError as error:
            here.call_soon_threadsafe(inbox.fail, error)
        except asyncio.CancelledError:
            if not ended:
                engine.tokenizer_manager.abort_request(rid=id)
            raise
        except Exception as error:
            log.error("SGLang's API failed", exc_info=error)
            failed = InternalError("The engine could not answer this request.")
            here.call_soon_threadsafe(inbox.fail, failed)

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
        """SGLang's public API does not tell them while it serves."""
        return []

    def options(self) -> Json:
        from app.settings.secrets import redacted

        return redacted(dict(self._options))

    async def flush_cache(self) -> bool:
        raise InvalidRequest("The cache cannot be emptied while the model is served by SGLang's "
                             "public API only.")  # fmt: skip

    async def profile(self, options: Json | None) -> None:
        raise InvalidRequest("There is no profiler while the model is served by SGLang's public "
                             "API only.")  # fmt: skip

    def silent_s(self) -> float:
        """SGLang's own watchdog ends a scheduler that hangs: nothing public shows whether a silent
        one works."""
        return _HARDLY if self._owed else 0.0

    async def warm_up(self) -> None:
        tokenizer, _ = self._tokenizing.here()
        self._grammar_vocabulary = vocabulary_of(
            tokenizer, self.info.vocab_size, self._ends or [tokenizer.eos_token_id]
        )
        question = Question(
            prompt=self.encode("Hello") or [0],
            sampling=Sampling(max_tokens=1, temperature=0.0, ignore_eos=True),
        )
        id = "warmup" + uuid.uuid4().hex[6:]
        async with aclosing(self.generate(question, id=id, choices=1)) as stream:
            tokens = [chunk.completion_tokens async for chunk in stream]
        if tokens[-1:] != [1]:
            raise StartError("the engine did not generate a token when it was warmed up")

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._watch.close()
        done = asyncio.get_running_loop().create_future()

        def shut_down() -> None:
            self._bridge.engine.shutdown()
            done.get_loop().call_soon_threadsafe(done.set_result, None)

        self._bridge.soon(shut_down)
        await done


def _put(inbox: Inbox, chunk: Chunk) -> None:
    inbox.put(chunk)
    inbox.wake()
