"""An engine without a model: it plays a script. Served with `ENGINE=scripted`; most tests use it.

    ScriptedEngine    plays steps: texts, pauses, errors, at an exact moment each
    └ StandIn         what `ENGINE=scripted` serves: repeats its prompt, word by word, at a set pace
    └ SteppedEngine   the benchmark's: all running requests gain a token at once, numbered words

Everything is deterministic. A prompt's token ids are its characters; a chunk is one token, its id
that of its first character, its bytes the whole chunk. Log-probabilities follow from the ids.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from app.engine.base import Chunk, Embedding, Engine, EngineInfo, Load, Question, Rendered
from app.engine.json_examples import example
from app.engine.required_calls import calls_schema
from app.errors import ConfigError, UnsupportedParameter
from app.events import EndReason, ScoredToken, Token
from app.lifecycle import Phase
from app.reading.pieces import CallArray, answer_reader
from app.settings.catalogue import Settings
from app.types import ChatPrompt, Grammar, Json, Scoring

Step = str | float | Exception | asyncio.Event
"""A text is a chunk of one token; a number, seconds of silence; an exception is raised; an event is
awaited."""


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
                "model_path": "scripted", "version": "scripted", "device": "none",
                "context_length": 1000, "max_prompt_tokens": 990, "vocab_size": 0x110000, **info,
            }
        )  # fmt: skip
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.running = 0
        self.aborted = 0

    @property
    def serves(self) -> Engine:
        return self

    def all_warm(self) -> None:
        pass

    def encode(self, text: str) -> list[int]:
        return [ord(each) for each in text]

    def decode(self, ids: Sequence[int], *, special: bool = True) -> str:
        return "".join(map(chr, ids))

    def grammar_vocabulary(self) -> str | None:
        return None

    def infill(self, prefix: str, suffix: str) -> list[int]:
        return [*self.encode(prefix), 0, *self.encode(suffix)]

    def render(self, chat: ChatPrompt, grammar: Grammar | None) -> Rendered:
        return Rendered(self._ids(chat), grammar=grammar, reader=answer_reader(grammar))

    def _ids(self, chat: ChatPrompt) -> list[int]:
        return self.encode("".join(part.text for turn in chat.messages for part in turn.parts))

    def steps(self, question: Question, choice: int) -> Iterable[Step]:
        """What is played for one choice."""
        return () if question.sampling.max_tokens == 0 else self._script(choice)

    def end(self, question: Question, tokens: int) -> tuple[EndReason, str | int | None]:
        """Why a choice ends once its steps are over, after so many tokens."""
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
                                choice, step, length, tokens[choice], 0,
                                ids=(_id(step),), scored=(token,) if token else (),
                                prompt=prompt_scores[choice],
                            )  # fmt: skip
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
                                choice, "", length, tokens[choice], 0, 0, reason, matched,
                                prompt=prompt_scores[choice],
                            )  # fmt: skip
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

    async def loads(self) -> list[Load]:
        return [Load(0, self.running, 0, 16 * self.running, 4096, 0.0, 8)]

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


# -- ENGINE=scripted -----------------------------------------------------------------------------

_CONTEXT_TOKENS = 32_768


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """ENGINE_ARGS of the scripted engine."""

    token_s: float = 0.02
    """Seconds from one token to the next."""
    loading_s: float = 0.0
    """How long the start takes."""
    words: int | None = None
    """Each answer is so many times `word`; None: it repeats the prompt."""
    embedding_size: int | None = None
    """Length of the vectors, for an embedding model."""
    step_s: float | None = None
    """The benchmark's engine (`SteppedEngine`), at this pace."""

    @classmethod
    def of(cls, settings: Settings) -> Options:
        """Raises ConfigError that names what is wrong."""
        try:
            return msgspec.convert(settings.engine_args, cls)
        except msgspec.ValidationError as error:
            known = ", ".join(cls.__struct_fields__)
            raise ConfigError(f"ENGINE_ARGS: the scripted engine takes {known}: {error}") from None


class StandIn(ScriptedEngine):
    """Stands in for a model: it repeats the prompt's last text, word by word, and honours
    `max_tokens`, `stop`, `n`, scores, JSON schemas (types and required properties) and calls of
    tools that are required."""

    def __init__(self, options: Options) -> None:
        super().__init__(
            context_length=_CONTEXT_TOKENS,
            max_prompt_tokens=_CONTEXT_TOKENS - 1,
            fills_middle=True,
            embedding_size=options.embedding_size,
            dimensions=() if options.embedding_size else None,
        )
        self._options = options

    def render(self, chat: ChatPrompt, grammar: Grammar | None) -> Rendered:
        ids = self.encode("".join(part.text for part in chat.messages[-1].parts) or " ")
        use = chat.tool_use
        if use is not None and use.required:
            schema = Grammar("json_schema", json.dumps(calls_schema(use)), "tools")
            return Rendered(ids, grammar=schema, reader=CallArray)
        return Rendered(ids, grammar=grammar, reader=answer_reader(grammar))

    def steps(self, question: Question, choice: int) -> Iterator[Step]:
        for no, word in enumerate(self._words(question)):
            if no:
                yield self._options.token_s
            yield word

    def end(self, question: Question, tokens: int) -> tuple[EndReason, str | int | None]:
        text, matched = self._text(question)
        whole = sum(1 for _ in _words(text))
        return ("length", None) if tokens < whole or not text else ("stop", matched)

    def _words(self, question: Question) -> Iterator[str]:
        text, _ = self._text(question)
        return itertools.islice(_words(text), question.sampling.max_tokens)

    def _text(self, question: Question) -> tuple[str, str | None]:
        """The whole answer, and the stop string that ends it."""
        grammar, words = question.sampling.grammar, self._options.words
        if grammar is None:
            text = "word " * words if words is not None else self._repeated(question)
            return _stopped(text, question.sampling.stop)
        if grammar.kind != "json_schema":
            raise UnsupportedParameter(
                f"'{grammar.param}' needs a model: this server plays a script (ENGINE=scripted).",
                param=grammar.param,
            )
        return json.dumps(example(json.loads(grammar.text))), None

    def _repeated(self, question: Question) -> str:
        return f"You said: {self.decode(question.prompt)}"


class Kept:
    """The parent's part where several processes serve: each of them has a script of its own."""

    phase_when_up = Phase.WARMING
    serves = None

    def __init__(self) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def all_warm(self) -> None:
        pass

    async def close(self) -> None:
        pass


def engine_of(settings: Settings) -> ScriptedEngine:
    """The engine that ENGINE_ARGS describes. Raises ConfigError."""
    options = Options.of(settings)
    return StandIn(options) if options.step_s is None else SteppedEngine(options.step_s)


async def launch(settings: Settings, loading: Callable[[], None]) -> ScriptedEngine | Kept:
    """What `engine/sglang/launch.py` does for a model. Raises ConfigError."""
    options = Options.of(settings)
    loading()
    await asyncio.sleep(options.loading_s)
    return Kept() if settings.tokenizer_workers > 1 else engine_of(settings)


def _words(text: str) -> Iterator[str]:
    """Each word with the blanks behind it; the words together are the text."""
    word = ""
    for character in text:
        if word and word[-1].isspace() and not character.isspace():
            yield word
            word = ""
        word += character
    if word:
        yield word


def _stopped(text: str, stop: Sequence[str]) -> tuple[str, str | None]:
    """The text up to the first stop string in it, and that string."""
    ends = [(at, each) for each in stop if (at := text.find(each)) >= 0]
    if not ends:
        return text, None
    at, matched = min(ends)
    return text[:at], matched


# -- the benchmark's -----------------------------------------------------------------------------

_STEPPED_CONTEXT_TOKENS = 1_000_000


def numbered_words(first: int, count: int) -> str:
    """What `SteppedEngine` answers to a prompt of `first` within `count` tokens."""
    return "".join([f"{number} " for number in range(first, first + count)])


class _Answer:
    """One request. `gained` is set while it has tokens that its consumer has not taken."""

    __slots__ = ("gained", "tokens", "wanted")

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.tokens = 0
        self.gained = asyncio.Event()


class SteppedEngine(ScriptedEngine):
    """Steps as a real engine does: all running requests gain a token at a time.

        prompt "   4000", max_tokens 3  ->  "4000 ", "4001 ", "4002 " and finish reason `length`

    The words are numbered from the number in the prompt, so that a client sees by the text alone
    what was lost, repeated, reordered or came from another stream. `step_s` 0: a step is made once
    every request has taken its token, so the server's speed is the only limit. Else a step is made
    every `step_s`, and the tokens that a request finds together are one chunk. What else is
    asked for, such as scores, is left out.
    """

    def __init__(self, step_s: float = 0.0) -> None:
        super().__init__(
            context_length=_STEPPED_CONTEXT_TOKENS,
            max_prompt_tokens=_STEPPED_CONTEXT_TOKENS,
            vocab_size=2**31,
        )
        self._step_s = step_s
        self._batch: set[_Answer] = set()
        self._untaken = 0
        self._due = asyncio.Event()
        self._stepping = asyncio.create_task(self._step_on())

    def render(self, chat: ChatPrompt, grammar: Grammar | None) -> Rendered:
        (turn,) = chat.messages
        (part,) = turn.parts
        return Rendered(self.encode(part.text))

    async def generate(
        self, question: Question, *, id: str, choices: int
    ) -> AsyncGenerator[Chunk, None]:
        prompt, wanted = question.prompt, question.sampling.max_tokens
        assert wanted, "the client says how many tokens it wants"
        first = int(self.decode(prompt))
        answer = _Answer(wanted)
        self._enter(answer)
        taken = 0
        try:
            while taken < wanted:
                await answer.gained.wait()
                self._take(answer)
                new = range(taken, answer.tokens)
                taken = answer.tokens
                yield Chunk(
                    0, numbered_words(first + new.start, len(new)), len(prompt), taken, 0,
                    finish="length" if taken == wanted else None,
                )  # fmt: skip
        finally:
            self._leave(answer)

    async def close(self) -> None:
        self._stepping.cancel()
        with suppress(asyncio.CancelledError):
            await self._stepping

    async def _step_on(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            if self._step_s:
                await asyncio.sleep(self._step_s)
            self._step()
            if self._step_s and self._batch:
                self._due.set()

    def _step(self) -> None:
        for answer in list(self._batch):
            answer.tokens += 1
            self._untaken += not answer.gained.is_set()
            answer.gained.set()
            if answer.tokens == answer.wanted:
                self._batch.discard(answer)

    def _enter(self, answer: _Answer) -> None:
        self.running += 1
        self._batch.add(answer)
        if not self._untaken:
            self._due.set()

    def _take(self, answer: _Answer) -> None:
        answer.gained.clear()
        self._untaken -= 1
        if not self._untaken:
            self._due.set()

    def _leave(self, answer: _Answer) -> None:
        self.running -= 1
        self.aborted += answer.tokens < answer.wanted
        self._batch.discard(answer)
        if answer.gained.is_set():
            self._take(answer)


# -- scores --------------------------------------------------------------------------------------


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
    scores = [scored(chr(id), scoring.top) for id in prompt[scoring.prompt_from :]]
    if scores:
        own = scores[0].token
        scores[0] = ScoredToken(Token(own.id, own.raw, -9999.0), (), scored=False)
    return tuple(scores)


def _id(text: str) -> int:
    return ord(text[0]) if text else 0
