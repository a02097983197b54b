"""What `ENGINE=scripted` serves: a stand-in for a model, for trying and testing every endpoint.

It repeats the prompt's last text, word by word, at a set pace. With several serving processes each
has a stand-in of its own, and the parent keeps none.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator, Sequence

import msgspec

from app import awake
from app.engine.base import Load, Question, Rendered, Starting
from app.engine.json_examples import example
from app.engine.required_calls import calls_grammar
from app.engine.scripted import ScriptedEngine, Step
from app.engine.stepped import SteppedEngine
from app.errors import ConfigError, UnsupportedParameter
from app.events import EndReason
from app.lifecycle import Phase
from app.reading.json_calls import CallArray
from app.settings.catalogue import Settings
from app.types import ChatPrompt, Grammar, texts

_CONTEXT_TOKENS = 32_768


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """ENGINE_ARGS of the scripted engine."""

    token_s: float = 0.02
    """Seconds from one token to the next."""
    loading_s: float = 0.0
    """Seconds that the start takes."""
    words: int | None = None
    """Each answer is `word`, so many times; None: it repeats the prompt."""
    embedding_size: int | None = None
    """Length of the vectors, for an embedding model."""
    step_s: float | None = None
    """The benchmark's engine (`SteppedEngine`), at this pace."""

    @classmethod
    def of(cls, settings: Settings) -> Options:
        """Raises ConfigError that names the wrong option."""
        try:
            return msgspec.convert(settings.engine_args, cls)
        except msgspec.ValidationError as error:
            known = ", ".join(cls.__struct_fields__)
            raise ConfigError(f"ENGINE_ARGS: the scripted engine takes {known}: {error}") from None


class StandIn(ScriptedEngine):
    """Stands in for a model: it repeats the prompt's last text, word by word, and honours
    `max_tokens`, `stop`, `n`, scores, JSON schemas (types and required properties) and calls of
    tools that are required."""

    def __init__(self, options: Options, *, serves_adapters: bool = False) -> None:
        super().__init__(
            context_length=_CONTEXT_TOKENS,
            max_prompt_tokens=_CONTEXT_TOKENS - 1,
            fills_middle=True,
            searches_beams=True,
            serves_adapters=serves_adapters,
            embedding_size=options.embedding_size,
            dimensions=() if options.embedding_size else None,
        )
        self._options = options
        self._spoke_at = 0.0

    def silent_s(self) -> float:
        return awake.now() - self._spoke_at if self.running else 0.0

    async def loads(self) -> list[Load]:
        pace = self.running / self._options.token_s if self._options.token_s else 0.0
        return [msgspec.structs.replace(load, tokens_per_s=pace) for load in await super().loads()]

    def render(self, chat: ChatPrompt, grammar: Grammar | None) -> Rendered:
        ids = self.encode("".join(texts(chat.messages[-1].parts)) or " ")
        use = chat.tool_use
        if use is not None and use.required:
            return Rendered(ids, grammar=calls_grammar(use), reader=CallArray)
        return Rendered(ids, grammar=grammar)

    def steps(self, question: Question, choice: int) -> Iterator[Step]:
        for no, word in enumerate(self._words(question)):
            self._spoke_at = awake.now()
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
        """The whole answer, and the stop string that ends it, if one does."""
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
        name = self.adapters.get(question.adapter or "")
        return f"{name or 'You'} said: {self.decode(question.prompt)}"


class Kept:
    """The parent's part if several processes serve: each of them has a script of its own."""

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
    if options.step_s is not None:
        return SteppedEngine(options.step_s)
    return StandIn(options, serves_adapters=settings.serves_adapters)


async def launch(settings: Settings, starting: Starting) -> ScriptedEngine | Kept:
    """The counterpart of `engine/sglang/launch.py`. Raises ConfigError."""
    options = Options.of(settings)
    starting.loading()
    await asyncio.sleep(options.loading_s)
    return Kept() if settings.tokenizer_workers > 1 else engine_of(settings)


def _words(text: str) -> Iterator[str]:
    """Each word with the blanks after it; joined, they are the text."""
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
