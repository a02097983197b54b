"""What the server asks of an engine: one real adapter, `sglang.py`, and a scripted one in tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Protocol

import msgspec

from app.types import FinishReason, Message, Sampling


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
    honours_seed: bool = False
    default_sampling: dict[str, Any] = {}
    """The model's own generation config: temperature, top_p, top_k, min_p, repetition_penalty."""


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """What one choice gained in one engine step. `text` is new text; the counts are totals."""

    index: int
    text: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int = 0
    finish: FinishReason | None = None
    matched: str | int | None = None


class Rendered(msgspec.Struct, frozen=True):
    """A conversation as token ids, and the stop strings that its template asks for."""

    ids: list[int]
    stop: tuple[str, ...] = ()


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

    def render(self, messages: Sequence[Message]) -> Rendered:
        """The conversation by the model's own chat template, ready for the assistant's answer.

        Raises InvalidRequest if the template refuses it. As thread-safe as `encode`.
        """

    def generate(
        self, prompt: list[int], sampling: Sampling, *, id: str, choices: int
    ) -> AsyncGenerator[Chunk, None]:
        """Generate `choices` answers to one prompt, interleaved as they come.

        Closing the generator, or cancelling its consumer, aborts the request inside the engine.
        Raises ServeError: what the engine refuses or ends on its own.
        """

    def silent_s(self) -> float:
        """Seconds since the engine last said anything; 0 while nothing is asked of it."""

    async def warm_up(self) -> None:
        """Generate one token, so that "ready" means that the whole path works."""

    async def close(self) -> None:
        """End the engine's processes, letting them release their device. Idempotent."""
