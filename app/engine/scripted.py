"""An engine without a model: it plays a script, step by step, at an exact moment each.

    ScriptedEngine    most tests use it, with steps of their own
    ├ StandIn         what `ENGINE=scripted` serves (stand_in.py)
    └ SteppedEngine   what benchmarks of the serving layer use (stepped.py)

Everything is deterministic. A prompt's token ids are its characters. A chunk is one token: its id
is that of its first character, its bytes are the whole chunk. Log-probabilities follow from the
ids.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from app.adapters.files import read_adapter
from app.engine.base import (
    Chunk,
    Embedding,
    Engine,
    EngineInfo,
    Load,
    Memory,
    Question,
    Rendered,
)
from app.events import EndReason, ScoredToken, Token
from app.grammars.compiler import BYTES, Vocabulary
from app.lifecycle import Phase
from app.media.picture import Decoded
from app.types import ChatPrompt, Grammar, Json, Scoring, Text

Step = str | float | Exception | asyncio.Event
"""A text: a chunk of one token. A number: seconds of silence. An exception: raised. An event:
awaited."""

PICTURE = "\ufffc"
"""Each token of a picture."""
_PIXELS_OF_TOKEN = 28 * 28


class SeenPictures(list[Decoded]):
    """Those of one prompt."""

    def drop(self) -> None:
        """What has been asked is looked at by tests."""


class ScriptedMemory:
    """Has none, and minds as SGLang's scheduler would."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self._engine = engine
        self.released = False

    async def is_idle(self) -> bool:
        return not self._engine.running

    async def release(self) -> None:
        assert not self._engine.running
        self.released = True

    async def resume(self) -> None:
        self.released = False


class ScriptedEngine:
    """Plays `script(choice)` for every choice of every request."""

    phase_when_up = Phase.WARMING

    def __init__(
        self,
        *steps: Step,
        script: Callable[[int], Iterable[Step]] | None = None,
        finish: EndReason = "stop",
        matched: str | int | None = None,
        **info: Any,
    ) -> None:
        """`steps`: the script of every choice, if there is no `script`. `info`: of `EngineInfo`."""
        self._script = script or (lambda _: steps)
        self._finish: EndReason = finish
        self._matched = matched
        self.info = EngineInfo(
            **{
                "model_path": "scripted",
                "version": "scripted",
                "fingerprint": "fp_scripted",
                "device": "none",
                "context_length": 1000,
                "max_prompt_tokens": 990,
                "vocab_size": 0x110000,
                **info,
            }
        )
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.running = 0
        self.max_running = 0
        """What it reports; 0: it does not say."""
        self.aborted = 0
        self.adapters: dict[str, str] = {}
        """Id -> name."""
        self.memory: Memory | None = ScriptedMemory(self)

    @property
    def serves(self) -> Engine:
        return self

    def all_warm(self) -> None:
        pass

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        return [ord(each) for each in text]

    def decode(self, ids: Sequence[int], *, special: bool = True) -> str:
        return "".join(map(chr, ids))

    def grammar_vocabulary(self) -> Vocabulary | None:
        return BYTES

    def infill(self, prefix: str, suffix: str) -> list[int]:
        return [*self.encode(prefix), 0, *self.encode(suffix)]

    def render(self, chat: ChatPrompt, grammar: Grammar | None) -> Rendered:
        ids = self._ids(chat)
        order = tuple(range(ids.count(ord(PICTURE))))
        return Rendered(ids, grammar=grammar, text=self.decode(ids), pictures=order)

    def _ids(self, chat: ChatPrompt) -> list[int]:
        parts = [part for turn in chat.messages for part in turn.parts]
        return self.encode(
            "".join(part.text if isinstance(part, Text) else PICTURE for part in parts)
        )

    def picture_tokens(self, sizes: Sequence[tuple[int, int]]) -> list[int] | None:
        return [max(1, width * height // _PIXELS_OF_TOKEN) for width, height in sizes]

    async def see(self, rendered: Rendered, pictures: Sequence[Decoded], *, param: str) -> Rendered:
        counts = iter(self.picture_tokens([(each.width, each.height) for each in pictures]) or ())
        ids: list[int] = []
        for id in rendered.ids:
            ids += [id] * (next(counts) if id == ord(PICTURE) else 1)
        more = len(ids) - len(rendered.ids) + len(pictures)
        inputs = SeenPictures(pictures)
        return msgspec.structs.replace(rendered, ids=ids, picture_tokens=more, inputs=inputs)

    def steps(self, question: Question, choice: int) -> Iterable[Step]:
        """The script of one choice."""
        return () if question.sampling.max_tokens == 0 else self._script(choice)

    def end(self, question: Question, tokens: int) -> tuple[EndReason, str | int | None]:
        """The finish reason of a choice whose steps are over, after so many tokens."""
        return "length" if question.sampling.max_tokens == 0 else self._finish, self._matched

    async def generate(
        self, question: Question, *, id: str, choices: int
    ) -> AsyncGenerator[Chunk, None]:
        scoring, length = question.scoring, len(question.prompt)
        self.running += 1
        done = False
        try:
            scripts = [iter(self.steps(question, choice)) for choice in range(choices)]
            tokens = [0] * choices
            prompt_scores = [_prompt_scores(question.prompt, scoring)] * choices
            open_choices = set(range(choices))
            while open_choices:
                for choice in sorted(open_choices):
                    step = next(scripts[choice], None)
                    match step:
                        case str():
                            tokens[choice] += 1
                            token = scored(step, scoring.top) if scoring else None
                            yield Chunk(
                                choice,
                                step,
                                length,
                                tokens[choice],
                                0,
                                ids=(_id(step),),
                                scored=(token,) if token else (),
                                prompt=prompt_scores[choice],
                            )
                            prompt_scores[choice] = ()
                        case float() | int():
                            await asyncio.sleep(step)
                        case asyncio.Event():
                            await step.wait()
                        case Exception():
                            raise step
                        case None:
                            open_choices.discard(choice)
                            reason, matched = self.end(question, tokens[choice])
                            yield Chunk(
                                choice,
                                "",
                                length,
                                tokens[choice],
                                0,
                                finish=reason,
                                matched=matched,
                                prompt=prompt_scores[choice],
                            )
            done = True
        finally:
            self.running -= 1
            self.aborted += not done

    async def embed(
        self, prompts: Sequence[list[int]], *, id: str, dimensions: int | None = None
    ) -> list[Embedding]:
        """(sum of the ids, 1, 1, ...), normalised."""
        size = dimensions or self.info.embedding_size or 0
        embeddings = []
        for prompt in prompts:
            vector = [float(sum(prompt)), *[1.0] * (size - 1)]
            length = math.hypot(*vector)
            embeddings.append(Embedding([each / length for each in vector], len(prompt)))
        return embeddings

    async def load_adapter(self, name: str, path: str) -> str:
        await asyncio.to_thread(read_adapter, Path(path))
        self.adapters[id := uuid.uuid4().hex] = name
        return id

    async def unload_adapter(self, id: str) -> None:
        del self.adapters[id]

    async def loads(self) -> list[Load]:
        return [Load(0, self.running, 0, 16 * self.running, 4096, 0.0, self.max_running)]

    def options(self) -> Json:
        return {"model_path": "scripted", "tp_size": 1, "dp_size": 1, "api_key": "***"}

    async def flush_cache(self) -> bool:
        return not self.running

    async def profile(self, options: Json | None) -> None:
        pass

    def silent_s(self) -> float:
        return 0.0

    async def warm_up(self) -> None:
        pass

    async def close(self) -> None:
        pass


def scored(text: str, top: int) -> ScoredToken:
    """The token of one chunk with a log-probability of -0.25 to -0.36, by its id.

    It is the likeliest. Each alternative is the next character, and 0.5 below the one before it.
    """
    id = _id(text)
    own = Token(id, text.encode(), -0.25 - id % 8 / 64)
    others = [
        Token(other, chr(other).encode(errors="replace"), own.logprob - 0.5 * (other - id))
        for other in range(id + 1, id + top)
    ]
    return ScoredToken(own, (own, *others)[:top])


def _prompt_scores(prompt: Sequence[int], scoring: Scoring | None) -> tuple[ScoredToken, ...]:
    """The first token has no score, at whatever position the scores begin, as with SGLang."""
    if scoring is None or scoring.prompt_from is None:
        return ()
    scores = [scored(chr(id), scoring.top) for id in prompt[scoring.prompt_from :]]
    if scores:
        own = scores[0].token
        scores[0] = ScoredToken(Token(own.id, own.raw, -9999.0), (), scored=False)
    return tuple(scores)


def _id(text: str) -> int:
    return ord(text[0]) if text else 0
