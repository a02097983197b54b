"""A scripted engine: for what the real one cannot be made to do on demand.

Exact timing, text cut anywhere, failures at a given moment, a thousand streams.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from app.engine.base import Chunk, Embedding, EngineInfo, Load, Rendered
from app.types import ChatPrompt, EndReason, Json, Sampling, ScoredToken, Scoring, Token

Step = str | float | Exception | asyncio.Event
"""A text is a chunk of one token; a number, seconds of silence; an exception is raised; an event is
awaited."""


class ScriptedEngine:
    """Plays `script(choice)` for every choice.

    A prompt's ids are its characters; a chunk is one token, its id that of its first character, its
    bytes the whole chunk. Log-probabilities follow from ids: see `scored`.
    """

    def __init__(
        self,
        *steps: Step,
        script: Callable[[int], Sequence[Step]] | None = None,
        finish: EndReason = "stop",
        matched: str | int | None = None,
        rendered: Callable[[ChatPrompt, list[int]], Rendered] | None = None,
        **info: Any,
    ) -> None:
        """`rendered` makes more of a conversation's ids than a plain `Rendered`."""
        self._script = script or (lambda _: steps)
        self._finish = finish
        self._matched = matched
        self._rendered = rendered or (lambda _, ids: Rendered(ids))
        self.info = EngineInfo(
            **{
                "model_path": "scripted", "version": "scripted", "device": "none",
                "context_length": 1000, "max_prompt_tokens": 990, "vocab_size": 0x110000, **info,
            }
        )  # fmt: skip
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.running = 0
        self.aborted = 0
        self.calls: list[tuple[list[int], Sampling, str, int]] = []
        """Of every `generate`: prompt, sampling, id, choices."""
        self.scorings: list[Scoring | None] = []
        self.gated: list[bool] = []
        """`thinking` of every `generate`."""
        self.whole: list[bool] = []
        """`whole` of every `generate`."""
        self.chats: list[ChatPrompt] = []
        self.embedded: list[tuple[list[list[int]], int | None]] = []
        """Of every `embed`: prompts, dimensions."""
        self.flushed = 0
        self.profiled: list[Json | None] = []
        self.closed = False

    def encode(self, text: str) -> list[int]:
        return [ord(each) for each in text]

    def decode(self, ids: Sequence[int], *, special: bool = True) -> str:
        return "".join(map(chr, ids))

    def grammar_vocabulary(self) -> str | None:
        return None

    def infill(self, prefix: str, suffix: str) -> list[int]:
        return [*self.encode(prefix), 0, *self.encode(suffix)]

    def render(self, chat: ChatPrompt) -> Rendered:
        self.chats.append(chat)
        texts = [_text(message.get("content")) for message in chat.messages]
        return self._rendered(chat, self.encode("".join(texts)))

    async def generate(
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
        self.calls.append((prompt, sampling, id, choices))
        self.scorings.append(scoring)
        self.gated.append(thinking)
        self.whole.append(whole)
        self.running += 1
        done = False
        try:
            none = sampling.max_tokens == 0
            scripts = [iter(() if none else self._script(choice)) for choice in range(choices)]
            tokens = [0] * choices
            told = [_prompt_scores(prompt, scoring)] * choices
            open_choices = set(range(choices))
            while open_choices:
                for choice in sorted(open_choices):
                    step = next(scripts[choice], None)
                    match step:
                        case str():
                            tokens[choice] += 1
                            token = scored(step, scoring.top) if scoring else None
                            yield Chunk(
                                choice, step, len(prompt), tokens[choice], 0,
                                ids=(_id(step),), scored=(token,) if token else (),
                                prompt=told[choice],
                            )  # fmt: skip
                            told[choice] = ()
                        case float() | int():
                            await asyncio.sleep(step)
                        case asyncio.Event():
                            await step.wait()
                        case Exception():
                            raise step
                        case None:
                            open_choices.discard(choice)
                            yield Chunk(
                                choice, "", len(prompt), tokens[choice], 0, 0,
                                "length" if none else self._finish, self._matched,
                                prompt=told[choice],
                            )  # fmt: skip
            done = True
        finally:
            self.running -= 1
            self.aborted += not done

    async def embed(
        self, prompts: Sequence[list[int]], *, id: str, dimensions: int | None = None
    ) -> list[Embedding]:
        """(sum of the ids, 1, 1, ...), normalised."""
        self.embedded.append((list(prompts), dimensions))
        size = dimensions or self.info.embedding_size or 0
        found = []
        for prompt in prompts:
            vector = [float(sum(prompt)), *[1.0] * (size - 1)]
            length = math.hypot(*vector)
            found.append(Embedding([each / length for each in vector], len(prompt)))
        return found

    async def loads(self) -> list[Load]:
        return [Load(0, self.running, 0, 16 * self.running, 4096, 0.0, 8)]

    def options(self) -> Json:
        return {"model_path": "scripted", "tp_size": 1, "dp_size": 1, "api_key": "***"}

    async def flush_cache(self) -> bool:
        self.flushed += not self.running
        return not self.running

    async def profile(self, options: Json | None) -> None:
        self.profiled.append(options)

    def silent_s(self) -> float:
        return 0.0

    async def warm_up(self) -> None:
        pass

    async def close(self) -> None:
        self.closed = True


def scored(text: str, top: int) -> ScoredToken:
    """The token of one chunk: -0.25 to -0.36 by its id. It is the likeliest; each alternative, the
    next character, is half as much again below."""
    id = _id(text)
    own = Token(id, text.encode(), -0.25 - id % 8 / 64)
    others = [
        Token(other, chr(other).encode(errors="replace"), own.logprob - 0.5 * (other - id))
        for other in range(id + 1, id + top)
    ]
    return ScoredToken(own, (own, *others)[:top])


def _prompt_scores(prompt: Sequence[int], scoring: Scoring | None) -> tuple[ScoredToken, ...]:
    """Nothing is known of the first one, as with SGLang, wherever that is."""
    if scoring is None or scoring.prompt_from is None:
        return ()
    found = [scored(chr(id), scoring.top) for id in prompt[scoring.prompt_from :]]
    if found:
        own = found[0].token
        found[0] = ScoredToken(Token(own.id, own.raw, -9999.0), (), scored=False)
    return tuple(found)


def _id(text: str) -> int:
    return ord(text[0]) if text else 0


def _text(content: object) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content)
    return "" if content is None else str(content)
