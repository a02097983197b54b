"""Fields that the OpenAI endpoints share, and their lowering to `Sampling`.

Source: OpenAI's OpenAPI document; `top_k`, `min_p`, `repetition_penalty`, `min_tokens`,
`ignore_eos`, `stop_token_ids`, `skip_special_tokens` as SGLang and vLLM accept them, read 2026-11.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import orjson
from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from app.dialects.base import Body, Bounds, Call
from app.errors import InvalidRequest, ServeError
from app.types import Json, Sampling, Usage

_MAX_STOPS, _MAX_STOP_CHARS = 16, 256
_MAX_BIASES = 300

# Everything here changes the result, and what this server does not honour it must not swallow.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "tools": (), "tool_choice": (), "parallel_tool_calls": (), "functions": (),
    "function_call": (), "response_format": ({"type": "text"},), "logprobs": (False,),
    "top_logprobs": (), "audio": (), "modalities": (["text"],), "web_search_options": (),
    "reasoning_effort": (), "reasoning": (), "regex": (), "ebnf": (), "json_schema": (),
    "guided_json": (), "guided_regex": (), "guided_choice": (), "guided_grammar": (),
    "structured_outputs": (), "structural_tag": (), "chat_template": (),
    "chat_template_kwargs": ({},), "continue_final_message": (False,),
    "add_generation_prompt": (True,), "best_of": (1,), "echo": (False,), "suffix": ("",),
    "use_beam_search": (False,), "beam_width": (1,), "prompt_logprobs": (), "lora_path": (),
    "custom_logit_processor": (), "logits_processors": (), "truncate_prompt_tokens": (),
    "stop_regex": (), "no_stop_trim": (False,), "include_stop_str_in_output": (False,),
    "bad_words": ([],), "thinking": (), "return_hidden_states": (False,), "input_embeds": (),
    "prompt_embeds": (), "session_params": (), "verbosity": (), "allowed_token_ids": (),
    "length_penalty": (1.0, 1), "return_token_ids": (False,), "max_thinking_tokens": (),
    "add_special_tokens": (True,), "extra_key": (), "cache_salt": (),
}  # fmt: skip


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


Stops = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=_MAX_STOP_CHARS)]],
    Field(max_length=_MAX_STOPS),
    BeforeValidator(_one_or_many),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1, "maxLength": _MAX_STOP_CHARS},
                {
                    "type": "array",
                    "maxItems": _MAX_STOPS,
                    "items": {"type": "string", "minLength": 1, "maxLength": _MAX_STOP_CHARS},
                },
            ]
        }
    ),
]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Biases = Annotated[
    dict[
        Annotated[str, Field(pattern=r"^[0-9]{1,9}$")],
        Annotated[float, Field(ge=-100, le=100)],
    ],
    Field(max_length=_MAX_BIASES),
]


class StreamOptions(Body):
    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = {
        "continuous_usage_stats": (False,),
    }

    include_usage: bool | None = None


class SamplingFields(Body):
    """Everything about sampling that chat and plain completions have in common."""

    model: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=2)] | None = None
    stop: Stops | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64, fail_fast=True)] | None = None
    min_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    logit_bias: Biases | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    user: str | None = None

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> SamplingFields:
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest(
                "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
                param="stream_options",
            )
        return self

    @classmethod
    def lengths(cls, bounds: Bounds) -> dict[str, int]:
        return {"logit_bias": _MAX_BIASES, "stop": _MAX_STOPS}

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, *, max_tokens: int | None) -> Sampling:
        top_k = self.top_k
        return Sampling(
            max_tokens=max_tokens,
            min_tokens=self.min_tokens or 0,
            temperature=self.temperature,
            # OpenAI takes 0 for "only the likeliest"; the engine wants it above.
            top_p=max(self.top_p, 1e-6) if self.top_p is not None else None,
            top_k=-1 if top_k == 0 else top_k,
            min_p=self.min_p,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            repetition_penalty=self.repetition_penalty,
            stop=tuple(self.stop or ()),
            stop_token_ids=tuple(self.stop_token_ids or ()),
            ignore_eos=bool(self.ignore_eos),
            skip_special_tokens=self.skip_special_tokens is not False,
            logit_bias=self.logit_bias or None,
            seed=self.seed,
        )


def choices(body: SamplingFields, call: Call) -> int:
    """`n`, within what the operator allows."""
    n = body.n or 1
    if n > call.bounds.max_choices:
        raise InvalidRequest(
            f"Invalid value for 'n': must be at most {call.bounds.max_choices}.",
            param="n",
            code="integer_above_max_value",
        )
    return n


def model_name(body: SamplingFields, call: Call) -> str:
    """The name to answer under; raises ModelNotFound for one that is not served."""
    if body.model is None:
        return call.model.names[0]
    call.model.check_name(body.model)
    return body.model if body.model in call.model.names else call.model.names[0]


def usage_json(usage: Usage) -> Json:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def error_json(error: ServeError) -> Json:
    """OpenAI's error object: always these four keys."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }


DONE = b"data: [DONE]\n\n"


def frame(data: Json) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def failed(error: ServeError) -> bytes:
    return frame(error_json(error)) + DONE
