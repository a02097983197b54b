"""What the server asks of an engine: one real adapter, `sglang.py`, and a scripted one in tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Protocol

import msgspec

from app.types import ChatPrompt, EndReason, Json, Sampling, ScoredToken, Scoring


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about the loaded model."""

    model_path: str
    version: str
    """Of the engine, such as `sglang 0.5.23`."""
    device: str
    context_length: int
    """Tokens, prompt and answer together."""
    max_prompt_tokens: int
    """The longest prompt that the engine takes."""
    vocab_size: int
    """Rows of the embedding: every token id is below it."""
    model_type: str | None = None
    """As its config.json says, such as `llama`."""
    architectures: tuple[str, ...] = ()
    honours_seed: bool = False
    default_sampling: dict[str, Any] = {}
    """The model's own generation config: temperature, top_p, top_k, min_p, repetition_penalty."""
    tool_call_parser: str | None = None
    """SGLang's name for the format in which the model calls tools; None: it has none of its own."""
    reasoning_parser: str | None = None
    """SGLang's name for the format in which the model thinks; None: it does not."""
    fills_middle: bool = False
    """It was trained to fill a gap in a text."""
    embedding_size: int | None = None
    """Length of its vectors if it is an embedding model, which generates nothing; else None."""
    dimensions: tuple[int, ...] | None = None
    """Shorter lengths that its vectors may be cut to; empty: any; None: it was not trained so."""

    @property
    def embeds(self) -> bool:
        return self.embedding_size is not None


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """What one choice gained since its last chunk: in one step of the engine, or in several.

    `text` is new text; the counts are totals.
    """

    index: int
    text: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int = 0
    finish: EndReason | None = None
    matched: str | int | None = None
    ids: Sequence[int] = ()
    """The new tokens."""
    scored: tuple[ScoredToken, ...] = ()
    """The new tokens with their log-probabilities, if they were asked for."""
    prompt: tuple[ScoredToken, ...] = ()
    """The prompt's, with the first chunk, if they were asked for."""


class Rendered(msgspec.Struct, frozen=True):
    """A conversation as token ids, and what follows from its template."""

    ids: list[int]
    stop: tuple[str, ...] = ()
    """Stop strings that the template asks for."""
    thinking: bool = False
    """The model thinks first: its answer begins inside the thinking."""
    gates_grammar: bool = False
    """A grammar applies only once the thinking is over."""
    keep_special_tokens: bool = False
    """The output's markers are special tokens, which its parser must see."""


class Embedding(msgspec.Struct, frozen=True):
    """One prompt's vector and the prompt's tokens."""

    vector: list[float]
    """float32, L2-normalised."""
    prompt_tokens: int


class Load(msgspec.Struct, frozen=True):
    """What the engine is doing, as its scheduler last said; one for each of its replicas."""

    replica: int
    running: int
    """Requests in the batch."""
    waiting: int
    """Requests in its queue."""
    used_tokens: int
    """KV cache in use."""
    max_tokens: int
    """KV cache in all."""
    tokens_per_s: float
    max_running: int = 0
    """The largest batch."""


class Watched(Protocol):
    """The engine's processes under somebody's eyes."""

    lost: asyncio.Future[str]
    """Done when one of them has ended; its result says which and how."""

    @property
    def processes(self) -> Sequence[Any]: ...

    def close(self) -> None:
        """From now on a process's end is what we want."""


class EngineLost(Exception):
    """A process of the engine ended on its own; `str()` says which and how."""


class Engine(Protocol):
    """A loaded model. All methods belong to the event loop that built it."""

    info: EngineInfo
    lost: asyncio.Future[str]
    """Done when the engine's processes are gone; its result is the reason."""

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text, with the special tokens that the tokenizer adds.

        Safe to call from one thread beside the event loop's.
        """

    def decode(self, ids: Sequence[int], *, special: bool = True) -> str:
        """The text of token ids, with or without the special ones. As thread-safe as `encode`."""

    def grammar_vocabulary(self) -> str | None:
        """The vocabulary as xgrammar serialises it, to try grammars on; None: it cannot be had."""

    def infill(self, prefix: str, suffix: str) -> list[int]:
        """The prompt that has the gap between two texts filled; only if info.fills_middle."""

    def render(self, chat: ChatPrompt) -> Rendered:
        """The conversation by the model's own chat template, ready for the assistant's answer.

        Raises InvalidRequest if the template refuses it. As thread-safe as `encode`.
        """

    def generate(
        self,
        prompt: list[int],
        sampling: Sampling,
        *,
        id: str,
        choices: int,
        scoring: Scoring | None = None,
        thinking: bool = False,
        token_ids: bool = False,
        whole: bool = False,
    ) -> AsyncGenerator[Chunk, None]:
        """Generate `choices` answers to one prompt, interleaved as they come.

        `thinking`: a grammar in `sampling` waits for the end of the thinking. `token_ids`: chunks
        have their ids. `whole`: nobody reads the answer as it comes; it may be told in few chunks,
        the first of them still at the first token. Closing the generator, or cancelling its
        consumer, aborts the request inside the engine. Raises ServeError: what the engine refuses
        or ends on its own.
        """

    async def embed(
        self, prompts: Sequence[list[int]], *, id: str, dimensions: int | None = None
    ) -> list[Embedding]:
        """Embed each prompt, in order; only if info.embeds.

        Cancelling aborts the whole batch in the engine. Raises ServeError.
        """

    async def loads(self) -> list[Load]:
        """What the engine's replicas are doing; cheap."""

    def options(self) -> Json:
        """The options in force, without secrets."""

    async def flush_cache(self) -> bool:
        """Empty the prefix cache; False if requests are running."""

    async def profile(self, options: Json | None) -> None:
        """Start the engine's profiler with these options, or stop it with None."""

    def silent_s(self) -> float:
        """Seconds since the engine last said anything; 0 while nothing is asked of it."""

    async def warm_up(self) -> None:
        """Generate one token, so that "ready" means that the whole path works."""

    async def close(self) -> None:
        """End the engine's processes, letting them release their device. Idempotent."""
