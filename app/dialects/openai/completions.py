"""OpenAI completions (legacy): request -> GenerationRequest, events -> `text_completion` frames.

Source: https://platform.openai.com/docs/api-reference/completions, read 2026-11. Evaluation
harnesses score texts with it: `echo`, `logprobs` and `max_tokens` of 0 or 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Iterable, Sequence
from typing import Annotated, assert_never

import orjson
from pydantic import Field

from app.dialects.contract import Call, Dialect, Reply, present
from app.dialects.json_array import JsonArray
from app.dialects.openai import models
from app.dialects.openai.beams import beam_width
from app.dialects.openai.frames import OpenAIFrames, usage_json
from app.dialects.openai.sampling import (
    UNSUPPORTED,
    SamplingFields,
    alternative_count,
    choice_count,
)
from app.dialects.prompts import Prompts
from app.errors import InvalidRequest, UnsupportedParameter, above
from app.events import (
    Choice,
    Event,
    Finished,
    Progress,
    ReasoningDelta,
    Result,
    Scored,
    ScoredToken,
    Started,
    TextDelta,
    Token,
    TokenIds,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from app.settings.bounds import Bounds
from app.types import GenerationRequest, InfillPrompt, Json, Prompt, Scoring, TextPrompt

_DEFAULT_MAX_TOKENS = 16
"""OpenAI's."""


class CompletionBody(SamplingFields):
    unsupported = UNSUPPORTED | {
        "chat_template_kwargs": ({},),
        "continue_final_message": (False,),
        "enable_thinking": (),
        "reasoning": (),
        "reasoning_effort": (),
        "max_thinking_tokens": (),
        "thinking": (),
        "thinking_budget": (),
        "tool_choice": ("none",),
        "tools": ([],),
    }

    prompt: Prompts
    """What to continue: a text, texts, the token ids of one prompt, or lists of those; at most
    `MAX_PROMPTS` prompts."""
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Most tokens of each answer; with the prompt at most the context. 0 only with `echo`. Default:
    16."""
    echo: bool | None = None
    """Begin the answer with the prompt's text, and with its tokens in `logprobs`. Refused with
    `suffix`. Default: false."""
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    """Number of likeliest alternatives to return for each token, beside its own log-probability; 0
    returns only that. Default: no log-probabilities."""
    best_of: Annotated[int, Field(ge=1)] | None = None
    """Number of answers to generate for each prompt, of which the `n` with the best mean
    log-probability are returned. Refused above `n` in a stream. Default: `n`."""
    suffix: Annotated[str, Field(max_length=2**20)] | None = None
    """Text that follows the answer: the model fills the gap. Only for models that were trained for
    that, and prompts of text."""

    @classmethod
    def lengths(cls, bounds: Bounds) -> dict[str, int]:
        return {**super().lengths(bounds), "prompt": bounds.max_prompts}


def answer(body: CompletionBody, call: Call) -> Awaitable[Reply]:
    model = models.generator_name(body.model, call)
    request = lower(body, call)
    presenter = CompletionPresenter(
        id=call.id,
        model=model,
        fingerprint=call.model.info.fingerprint,
        choices=request.n * len(request.prompts),
        include_usage=body.include_usage(call.bounds),
        logprobs=body.logprobs,
        of=request.n,
        best=body.n or 1,
    )
    call.log_fields |= {
        "id": f"cmpl-{call.id}",
        "model": body.model,
        "prompts": len(request.prompts),
        "n": request.n,
        "max_tokens": request.sampling.max_tokens,
        "stream": bool(body.stream),
    }
    return present(call.generate(request), presenter, stream=bool(body.stream))


def lower(body: CompletionBody, call: Call) -> GenerationRequest:
    n = choice_count(body, call)
    beams = beam_width(body, call, n, body.best_of)
    of = n if beams is not None else _best_of(body, n, call)
    max_tokens = _DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    if max_tokens == 0 and not body.echo:
        raise InvalidRequest(
            "Invalid value for 'max_tokens': must be at least 1, or 0 together with 'echo'.",
            param="max_tokens",
            code="integer_below_min_value",
        )
    scoring = None
    if body.logprobs is not None or of > n:
        scoring = Scoring(
            top=alternative_count(body.logprobs, call.bounds, param="logprobs"),
            prompt_from=0 if body.echo else None,
        )
    return GenerationRequest(
        id=call.id,
        prompts=_prompts(body, call),
        sampling=body.sampling(call.bounds, max_tokens=max_tokens, beam_width=beams),
        n=of,
        echo=bool(body.echo),
        scoring=scoring,
        progress=body.progress or of > n,
        whole=not body.stream,
        cache_salt=body.cache_salt or "",
        session=body.prompt_cache_key or "",
    )


def _best_of(body: CompletionBody, n: int, call: Call) -> int:
    """How many choices to generate; the client gets the best `n` of them."""
    of = body.best_of or n
    if of < n:
        raise InvalidRequest(
            f"Invalid value for 'best_of': must be at least n ({n}).", param="best_of"
        )
    if of > call.bounds.max_choices:
        raise above("best_of", call.bounds.max_choices)
    if of > n and body.stream:
        raise InvalidRequest("'best_of' above 'n' cannot be streamed.", param="best_of")
    return of


def _prompts(body: CompletionBody, call: Call) -> tuple[Prompt, ...]:
    prompts: tuple[Prompt, ...] = body.prompt
    if not body.suffix:
        return prompts
    if not call.model.info.fills_middle:
        raise UnsupportedParameter(
            "This model was not trained to fill a gap in a text: 'suffix' is not supported.",
            param="suffix",
        )
    if body.echo:
        raise InvalidRequest("'suffix' and 'echo' exclude each other.", param="suffix")
    gaps = []
    for prompt in prompts:
        if not isinstance(prompt, TextPrompt):
            raise InvalidRequest("'suffix' needs a prompt that is text.", param="prompt")
        gaps.append(InfillPrompt(prompt.text, body.suffix, prompt.param))
    return tuple(gaps)


class CompletionPresenter(OpenAIFrames):
    """Renders one completion. `whole` returns the `best` of every `of` choices."""

    def __init__(
        self,
        *,
        id: str,
        model: str,
        fingerprint: str | None = None,
        choices: int,
        include_usage: bool,
        logprobs: int | None = None,
        of: int = 1,
        best: int = 1,
    ) -> None:
        super().__init__(
            id=f"cmpl-{id}",
            object="text_completion",
            model=model,
            fingerprint=fingerprint,
            choices=choices,
            opening=b'"text":',
            closing=b',"logprobs":null,"finish_reason":null',
            include_usage=include_usage,
        )
        self._logprobs = logprobs
        self._of, self._best = of, best
        self._kept = defaultdict[int, _Scores](_Scores)
        """The whole answer's scores, by choice."""

    def feed(self, event: Event) -> bytes:
        match event:
            case TextDelta(text, index) | ReasoningDelta(text, index):
                if self._scored or self._usage is not None:
                    return self._chunk(index, {"text": text}, None)
                return b"%b%b%b" % (self._heads[index], orjson.dumps(text), self._tail)
            case Scored(tokens, index):
                return b"" if self._logprobs is None else self._note_scores(tokens, index)
            case Progress(usage):
                return self._note_usage(usage)
            case Finished(reason, index):
                return self._chunk(index, {"text": ""}, reason)
            case Usage():
                return self._end(event)
            case Started() | TokenIds() | ToolCallStarted() | ToolCallDelta():
                return b""
            case _:
                assert_never(event)

    def keep_scores(self, scored: Scored) -> None:
        scores = self._kept[scored.index]
        if self._logprobs is not None:
            scores.add(scored.tokens)
        if not scored.of_prompt:
            scores.add_likelihood(scored.tokens)

    def whole(self, result: Result) -> Json:
        return self._common | {
            "choices": [
                {
                    "index": index,
                    "text": choice.text,
                    "logprobs": self._kept_json(choice.index),
                    "finish_reason": choice.finish_reason,
                }
                for index, choice in enumerate(self._chosen(result.choices))
            ],
            "usage": usage_json(result.usage),
        }

    def _chosen(self, choices: Sequence[Choice]) -> Iterable[Choice]:
        if self._of == self._best:
            return choices
        chosen: list[Choice] = []
        for first in range(0, len(choices), self._of):
            group = choices[first : first + self._of]
            chosen += sorted(group, key=self._likelihood, reverse=True)[: self._best]
        return chosen

    def _kept_json(self, index: int) -> Json | None:
        return None if self._logprobs is None else self._kept[index].json()

    def _likelihood(self, choice: Choice) -> float:
        return self._kept[choice.index].likelihood

    def _logprobs_json(self, scored: Sequence[ScoredToken]) -> Json | None:
        scores = _Scores()
        scores.add(scored)
        return scores.json()


class _Scores:
    """Log-probabilities of one choice, or of a piece of it: OpenAI's four columns."""

    def __init__(self) -> None:
        self._tokens, self._own, self._top, self._offsets = (JsonArray() for _ in range(4))
        self._sum, self._count = 0.0, 0

    def add(self, scored: Sequence[ScoredToken]) -> None:
        self._tokens.extend([_written(each.token) for each in scored])
        self._own.extend([each.token.logprob if each.scored else None for each in scored])
        self._top.extend([_top(each) if each.scored else None for each in scored])
        self._offsets.extend([each.offset for each in scored])

    def add_likelihood(self, generated: Sequence[ScoredToken]) -> None:
        self._sum += sum(each.token.logprob for each in generated)
        self._count += len(generated)

    @property
    def likelihood(self) -> float:
        """Mean log-probability of the generated tokens."""
        return self._sum / max(1, self._count)

    def json(self) -> Json:
        return {
            "tokens": self._tokens,
            "token_logprobs": self._own,
            "top_logprobs": self._top,
            "text_offset": self._offsets,
        }


def _top(scored: ScoredToken) -> dict[str, float]:
    """The alternatives and the token itself, whose number is the same as in `token_logprobs`."""
    top = {_written(each): each.logprob for each in reversed(scored.top)}
    return top | {_written(scored.token): scored.token.logprob}


def _written(token: Token) -> str:
    """The token's text; its bytes, as OpenAI writes them, if it is only a part of a character."""
    try:
        return token.raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.raw)


COMPLETIONS = Dialect(
    path="/v1/completions",
    summary="Continue a text",
    body=CompletionBody,
    answer=answer,
    example={"prompt": "The capital of France is", "max_tokens": 3, "temperature": 0},
)
