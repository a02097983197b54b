"""OpenAI completions (legacy): request -> GenerationRequest, events -> `text_completion` frames.

Source: https://platform.openai.com/docs/api-reference/completions, read 2026-11.
"""

from __future__ import annotations

from typing import Annotated, Any, assert_never

import orjson
from pydantic import Field, PlainValidator, WithJsonSchema

from app.dialects import fields
from app.dialects.base import Bounds, Call, Dialect, Reply, now, present
from app.dialects.fields import DONE, SamplingFields, frame, usage_json
from app.errors import ServeError
from app.types import (
    Event,
    Finished,
    GenerationRequest,
    Json,
    Prompt,
    Result,
    Started,
    TextDelta,
    TextPrompt,
    TokenPrompt,
    Usage,
)  # fmt: skip

_DEFAULT_MAX_TOKENS = 16
"""OpenAI's."""


def _prompts(value: Any) -> tuple[Prompt, ...]:
    """One text, texts, the ids of one prompt, or of several."""
    if isinstance(value, str):
        return (TextPrompt(value, "prompt"),)
    if isinstance(value, list) and value:
        if all(isinstance(each, str) for each in value):
            return tuple(TextPrompt(text, f"prompt[{no}]") for no, text in enumerate(value))
        if _are_ids(value):
            return (TokenPrompt(value, "prompt"),)
        if all(isinstance(each, list) and _are_ids(each) for each in value):
            return tuple(TokenPrompt(ids, f"prompt[{no}]") for no, ids in enumerate(value))
    raise ValueError(
        "must be a string, an array of strings, an array of token ids or an array of arrays of "
        "token ids, and not empty."
    )


def _are_ids(value: list[Any]) -> bool:
    # `type(...) is`: True is an int too, and JSON integers past 64 bits arrive as floats.
    return all(type(each) is int for each in value)


_TEXT: Json = {"type": "string"}
_IDS: Json = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
Prompts = Annotated[
    Any,
    PlainValidator(_prompts),
    WithJsonSchema(
        {
            "anyOf": [
                _TEXT,
                {"type": "array", "items": _TEXT, "minItems": 1},
                _IDS,
                {"type": "array", "items": _IDS, "minItems": 1},
            ]
        }
    ),
]


class CompletionBody(SamplingFields):
    unsupported = fields.UNSUPPORTED

    prompt: Prompts
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None

    @classmethod
    def lengths(cls, bounds: Bounds) -> dict[str, int]:
        return {**super().lengths(bounds), "prompt": bounds.max_prompts}


async def answer(body: CompletionBody, call: Call) -> Reply:
    model = fields.model_name(body, call)
    request = lower(body, call)
    presenter = CompletionPresenter(
        id=call.id,
        model=model,
        choices=request.n * len(request.prompts),
        include_usage=body.include_usage,
    )
    call.about |= {
        "model": body.model, "prompts": len(request.prompts), "n": request.n,
        "max_tokens": request.sampling.max_tokens, "stream": bool(body.stream),
    }  # fmt: skip
    return await present(call.generate(request), presenter, stream=bool(body.stream))


def lower(body: CompletionBody, call: Call) -> GenerationRequest:
    prompts: tuple[Prompt, ...] = body.prompt
    n = fields.choices(body, call)
    max_tokens = _DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    return GenerationRequest(
        id=call.id, prompts=prompts, sampling=body.sampling(max_tokens=max_tokens), n=n
    )


class CompletionPresenter:
    """Frames and JSON of one completion; of a frame only the text is rendered for each token."""

    def __init__(self, *, id: str, model: str, choices: int, include_usage: bool) -> None:
        self._include_usage = include_usage
        self._common: Json = {
            "id": f"cmpl-{id}", "object": "text_completion", "created": now(), "model": model,
            "system_fingerprint": None,
        }  # fmt: skip
        head = b"data: " + orjson.dumps(self._common)[:-1]
        self._heads = [
            b'%b,"choices":[{"index":%d,"text":' % (head, index) for index in range(choices)
        ]
        self._tail = b',"logprobs":null,"finish_reason":null}]' + (
            b',"usage":null}\n\n' if include_usage else b"}\n\n"
        )

    def feed(self, event: Event) -> bytes:
        match event:
            case TextDelta(text, index):
                return b"%b%b%b" % (self._heads[index], orjson.dumps(text), self._tail)
            case Started():
                return b""
            case Finished(reason, index):
                choice = _choice(index, "", reason)
                usage = {"usage": None} if self._include_usage else {}
                return frame(self._common | {"choices": [choice]} | usage)
            case Usage():
                return (self._usage(event) if self._include_usage else b"") + DONE
            case _:
                assert_never(event)

    def fail(self, error: ServeError) -> bytes:
        return fields.failed(error)

    def whole(self, result: Result) -> Json:
        return self._common | {
            "choices": [_choice(c.index, c.text, c.finish_reason) for c in result.choices],
            "usage": usage_json(result.usage),
        }

    def _usage(self, usage: Usage) -> bytes:
        return frame(self._common | {"choices": [], "usage": usage_json(usage)})


def _choice(index: int, text: str, finish_reason: str) -> Json:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}


COMPLETIONS = Dialect(
    path="/v1/completions",
    summary="Continue a text",
    body=CompletionBody,
    answer=answer,
    error=fields.error_json,
)
