"""SGLang's own `/generate`: request -> GenerationRequest, events -> cumulative frames.

Source: `/generate` (sglang/srt/entrypoints/http_server.py) of SGLang 0.5.23;
async_request_sglang_generate (sglang/benchmark/serving.py) for what clients read.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from typing import assert_never

import orjson

from app.dialects import pictures
from app.dialects.contract import Call, Dialect, Reply, present
from app.dialects.json_array import JsonArray
from app.dialects.openai import models
from app.dialects.openai.frames import DONE, error_frames, frame
from app.dialects.openai.sampling import alternative_count
from app.dialects.sglang.fields import GenerateBody, GenerateSampling
from app.errors import InvalidRequest, ServeError, above
from app.events import (
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
from app.types import GenerationRequest, Json, Scoring, pictures_of

_LARGE_FRAME = 64 * 1024
_GROWTH = 64
"""Every frame repeats the answer so far, so a long answer would cost its length squared: a frame of
more than _LARGE_FRAME bytes is sent only once a sixty-fourth of it is new."""


def answer(body: GenerateBody, call: Call) -> Awaitable[Reply]:
    if call.model.info.embeds:
        raise InvalidRequest("This model gives embeddings and generates no text.")
    request = lower(body, call)
    presenter = GeneratePresenter(
        request,
        top=request.scoring.top if request.scoring else 0,
        with_text=bool(body.return_text_in_logprobs),
        listed=request.n > 1 or body.prompts[0].param.endswith("]"),
    )
    call.log_fields |= {
        "id": call.id,
        "prompts": len(request.prompts),
        "n": request.n,
        "max_tokens": request.sampling.max_tokens,
        "stream": bool(body.stream),
    }
    return present(call.generate(request), presenter, stream=bool(body.stream))


def lower(body: GenerateBody, call: Call) -> GenerationRequest:
    params = body.sampling_params or GenerateSampling()
    if body.lora_path is not None:
        models.choose_adapter(body.lora_path, call, param="lora_path")
    n = params.n or 1
    if n > call.bounds.max_choices:
        raise above("sampling_params.n", call.bounds.max_choices)
    prompts = body.prompts
    pictures.check_count([each for prompt in prompts for each in pictures_of(prompt)], call)
    return GenerationRequest(
        id=call.id,
        prompts=prompts,
        sampling=params.lower(call.bounds),
        n=n,
        scoring=_scoring(body, call.bounds) if body.return_logprob else None,
        token_ids=True,
        progress=True,
        whole=not body.stream,
        cache_salt=body.cache_salt or "",
    )


def _scoring(body: GenerateBody, bounds: Bounds) -> Scoring:
    start = body.logprob_start_len
    top = alternative_count(body.top_logprobs_num, bounds, param="top_logprobs_num")
    start_at = None if start == -1 else start
    return Scoring(top=top, prompt_from=start_at, param="return_logprob")


class GeneratePresenter:
    """Renders cumulative frames, which repeat the whole answer so far, and the whole answer."""

    def __init__(
        self, request: GenerationRequest, *, top: int, with_text: bool, listed: bool
    ) -> None:
        """`listed`: the answer is a list, even if it has one entry."""
        self._listed = listed
        scored = request.scoring is not None
        self._choices = [
            _Answer(request.id, scored=scored, top=top, with_text=with_text)
            for _ in range(request.n * len(request.prompts))
        ]

    def feed(self, event: Event) -> bytes:
        match event:
            case TextDelta(text, index):
                answer = self._choices[index]
                answer.add_text(text)
                return self._frame(index) if answer.due else b""
            case Progress(index=index):
                self._choices[index].counts = event
                return b""
            case TokenIds(ids, index):
                self._choices[index].add_ids(ids)
                return b""
            case Scored(tokens, index, of_prompt):
                self._choices[index].add_scores(tokens, of_prompt=of_prompt)
                return b""
            case Finished(index=index):
                return self._frame(index, event)
            case Usage():
                return DONE
            case Started() | ReasoningDelta() | ToolCallStarted() | ToolCallDelta():
                return b""  # answers to plain prompts have neither thinking nor calls
            case _:
                assert_never(event)

    def fail(self, error: ServeError) -> bytes:
        return error_frames(error)

    def keep_scores(self, scored: Scored) -> None:
        self._choices[scored.index].add_scores(scored.tokens, of_prompt=scored.of_prompt)

    def whole(self, result: Result) -> Json | list[Json]:
        answers = []
        for choice in result.choices:
            answer = self._choices[choice.index]
            answer.add_text(choice.text)
            answer.add_ids(choice.token_ids)
            answer.counts = Progress(
                result.usage,
                choice.index,
                choice.completion_tokens,
                choice.prompt_tokens,
                choice.cached_tokens,
            )
            end = Finished(choice.finish_reason, choice.index, choice.matched)
            answers.append(answer.json(end))
        return answers if self._listed else answers[0]

    def _frame(self, index: int, end: Finished | None = None) -> bytes:
        data = self._choices[index].json(end)
        return frame(data | {"index": index} if self._listed else data)


class _Answer:
    """One choice so far. Its pieces are kept as JSON, because every frame repeats all of them."""

    def __init__(self, id: str, *, scored: bool, top: int, with_text: bool) -> None:
        self._id = id
        self._scored, self._top, self._with_text = scored, top, with_text
        self._text = bytearray()
        self._ids, self._input, self._output = JsonArray(), JsonArray(), JsonArray()
        self._input_top, self._output_top = JsonArray(), JsonArray()
        self._output_tokens = 0
        self._began = time.perf_counter()
        self._sent_size = 0
        self.counts: Progress | None = None

    def add_text(self, text: str) -> None:
        self._text += orjson.dumps(text)[1:-1]

    def add_ids(self, ids: Sequence[int]) -> None:
        self._ids.extend(ids)

    def add_scores(self, tokens: Sequence[ScoredToken], *, of_prompt: bool = False) -> None:
        scores, tops = (
            (self._input, self._input_top) if of_prompt else (self._output, self._output_top)
        )
        scores.extend([self._triple(each.token, scored=each.scored) for each in tokens])
        if self._top:
            tops.extend([[self._triple(one) for one in each.top] or None for each in tokens])
        self._output_tokens += 0 if of_prompt else len(tokens)

    @property
    def due(self) -> bool:
        """Enough of the answer is new to send a frame."""
        size = self._size
        return size <= _LARGE_FRAME or (size - self._sent_size) * _GROWTH >= size

    def json(self, end: Finished | None) -> Json:
        self._sent_size = self._size
        counts = self.counts
        meta: Json = {
            "id": self._id,
            "finish_reason": end and self._reason(end),
            "prompt_tokens": counts.prompt_tokens if counts else 0,
            "completion_tokens": counts.choice_tokens if counts else 0,
            "cached_tokens": counts.cached_tokens if counts else 0,
        }
        if self._scored:
            meta |= {
                "input_token_logprobs": self._input,
                "output_token_logprobs": self._output,
                "output_token_logprobs_length": self._output_tokens,
            }
        if self._top:
            meta |= {
                "input_top_logprobs": self._input_top,
                "output_top_logprobs": self._output_top,
            }
        if end is not None:
            meta["e2e_latency"] = time.perf_counter() - self._began
        text = orjson.Fragment(b"".join((b'"', self._text, b'"')))
        return {"text": text, "output_ids": self._ids, "meta_info": meta}

    @property
    def _size(self) -> int:
        parts = (self._ids, self._input, self._output, self._input_top, self._output_top)
        return len(self._text) + sum(len(part) for part in parts)

    def _triple(self, token: Token, *, scored: bool = True) -> list[float | int | str | None]:
        """A token as SGLang writes it: log-probability, id, text."""
        logprob = token.logprob if scored else None
        return [logprob, token.id, token.text if self._with_text else None]

    def _reason(self, end: Finished) -> Json:
        if end.reason == "length":
            return {"type": "length", "length": self.counts.choice_tokens if self.counts else 0}
        return {"type": "stop", "matched": end.matched}


GENERATE = Dialect(
    path="/generate",
    summary="Generate, as SGLang's own API asks for it",
    body=GenerateBody,
    answer=answer,
    example={
        "text": "The capital of France is",
        "sampling_params": {"max_new_tokens": 3, "temperature": 0},
    },
)
