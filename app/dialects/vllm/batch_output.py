"""worker-vllm's output: `{"choices": [{"tokens": [...]}], "usage": {"input", "output"}}`.

Source: README.md and src/engine.py of runpod-workers/worker-vllm (2025-09). Its `usage.output`
counts pieces; here it counts tokens. Bodies are those of the OpenAI dialects, which lower them;
only the presenter differs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, assert_never

import orjson

from app.dialects.contract import Call, Dialect, Reply, Whole, present
from app.dialects.openai import chat, completions, models
from app.dialects.openai.chat import CHAT, ChatBody
from app.dialects.openai.completions import COMPLETIONS, CompletionBody, CompletionPresenter
from app.errors import ServeError
from app.events import (
    Event,
    Events,
    Finished,
    Progress,
    ReasoningDelta,
    Result,
    Scored,
    Started,
    TextDelta,
    TokenIds,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
    fold,
)
from app.types import GenerationRequest, Json


def answer_chat(body: ChatBody, call: Call) -> Awaitable[Reply]:
    models.generator_name(body.model, call)
    request = chat.lower(body, call)
    _add_log_fields(call, request, body.model, bool(body.stream))
    presenter = TokensPresenter(request.n)
    return present(call.generate(request), presenter, stream=bool(body.stream))


def answer_completion(body: CompletionBody, call: Call) -> Awaitable[Reply]:
    models.generator_name(body.model, call)
    request = completions.lower(body, call)
    _add_log_fields(call, request, body.model, bool(body.stream))
    best = body.n or 1
    if request.n == best:
        presenter = TokensPresenter(request.n * len(request.prompts))
        return present(call.generate(request), presenter, stream=bool(body.stream))
    # `best_of` is never streamed. The completions' presenter chooses the best.
    chooser = CompletionPresenter(
        id=call.id,
        model="",
        choices=request.n * len(request.prompts),
        include_usage=False,
        of=request.n,
        best=best,
    )
    return _best_as_batch(call.generate(request), chooser)


async def _best_as_batch(events: Events, chooser: CompletionPresenter) -> Reply:
    result = await fold(events, chooser.keep_scores)
    texts = [choice["text"] for choice in chooser.whole(result)["choices"]]
    return Whole(orjson.dumps(_batch([[text] for text in texts], _usage(result.usage))))


def _add_log_fields(
    call: Call, request: GenerationRequest, model: str | None, stream: bool
) -> None:
    call.log_fields |= {
        "model": model,
        "n": request.n,
        "max_tokens": request.sampling.max_tokens,
        "stream": stream,
    }


class TokensPresenter:
    """Renders each piece as a line of JSON, a complete batch; `joined` merges several.

    Thinking is a part of the text, as in worker-vllm, which does not separate it.
    """

    def __init__(self, choices: int) -> None:
        self._choices = choices
        self._usage: Json = {"input": 0, "output": 0}
        self._sent_output = -1

    def feed(self, event: Event) -> bytes:
        match event:
            case TextDelta(text, index) | ReasoningDelta(text, index):
                tokens: list[list[str]] = [[] for _ in range(self._choices)]
                tokens[index].append(text)
                return self._line(tokens)
            case Progress(usage):
                self._usage = _usage(usage)
                return b""
            case Usage():
                self._usage = _usage(event)
                # The last tokens may have had no text.
                changed = self._sent_output != self._usage["output"]
                return self._line([[] for _ in range(self._choices)]) if changed else b""
            case Started() | Finished() | Scored() | TokenIds():
                return b""
            case ToolCallStarted() | ToolCallDelta():
                return b""  # these jobs have no tools
            case _:
                assert_never(event)

    def fail(self, error: ServeError) -> bytes:
        return b""  # the job fails with the error itself

    def keep_scores(self, scored: Scored) -> None:
        """This form has none."""

    def whole(self, result: Result) -> Json:
        texts = [[choice.reasoning + choice.text] for choice in result.choices]
        return _batch(texts, _usage(result.usage))

    def _line(self, tokens: list[list[str]]) -> bytes:
        self._sent_output = self._usage["output"]
        return orjson.dumps(_batch(tokens, self._usage)) + b"\n"


def joined(batches: Sequence[Json]) -> Json:
    """Merge batches: the tokens of each choice in order, and the last usage."""
    columns = zip(*(batch["choices"] for batch in batches), strict=True)
    tokens = [[token for part in column for token in part["tokens"]] for column in columns]
    return _batch(tokens, batches[-1]["usage"])


def _batch(tokens: Sequence[list[str]], usage: Json) -> Json:
    return {"choices": [{"tokens": each} for each in tokens], "usage": usage}


def _usage(usage: Usage) -> Json:
    return {"input": usage.prompt_tokens, "output": usage.completion_tokens}


def _variant(dialect: Dialect[Any], answer: Any) -> Dialect[Any]:
    return Dialect(
        path=dialect.path,
        summary=dialect.summary,
        body=dialect.body,
        answer=answer,
        example=dialect.example,
    )


DIALECTS = (_variant(CHAT, answer_chat), _variant(COMPLETIONS, answer_completion))
