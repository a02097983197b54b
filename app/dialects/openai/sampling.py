"""Sampling fields that chat and plain completions share, and their lowering.

Source: OpenAI's OpenAPI document; `top_k`, `min_p`, `repetition_penalty`, `min_tokens`,
`ignore_eos`, `stop_token_ids`, `skip_special_tokens` as SGLang and vLLM accept them, read 2026-11.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticKnownError

from app.dialects.body import Body, Unsupported
from app.dialects.contract import Call
from app.dialects.openai.beams import BeamFields
from app.dialects.openai.grammars import GrammarFields
from app.errors import InvalidRequest, UnsupportedParameter, above, too_many
from app.settings.bounds import Bounds, hard_limit
from app.types import Sampling

_MAX_STOPS, _MAX_STOP_CHARS = hard_limit("max_stops"), hard_limit("max_stop_chars")

UNSUPPORTED: Unsupported = {
    "add_special_tokens": (True,),
    "allowed_token_ids": (),
    "audio": (),
    "bad_words": ([],),
    "beam_width": (1,),
    "chat_template": (),
    "custom_logit_processor": (),
    "custom_params": (),
    "extra_key": (),
    "function_call": ("none",),
    "functions": ([],),
    "include_stop_str_in_output": (False,),
    "input_embeds": (),
    "logits_processors": (),
    "lora_path": (),
    "max_new_tokens": (),
    "modalities": (["text"],),
    "no_repeat_ngram_size": (0,),
    "no_stop_trim": (False,),
    "prompt_embeds": (),
    "prompt_logprobs": (),
    "return_hidden_states": (False,),
    "return_token_ids": (False,),
    "separate_reasoning": (True,),
    "session_params": (),
    "stop_regex": (),
    "truncate_prompt_tokens": (),
    "typical_p": (1.0, 1),
    "verbosity": ("low", "medium", "high"),
    "web_search_options": (),
}
"""Of chat and plain completions. Each would change the answer, so it is refused, not ignored."""


def _one_or_many(value: object) -> object:
    """Raises what pydantic would of the list's only entry, which the client has not written."""
    if value == "":
        raise PydanticKnownError("string_too_short", {"min_length": 1})
    if isinstance(value, str) and len(value) > _MAX_STOP_CHARS:
        raise PydanticKnownError("string_too_long", {"max_length": _MAX_STOP_CHARS})
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
StopTokenIds = Annotated[
    list[TokenId], Field(max_length=hard_limit("max_stop_token_ids"), fail_fast=True)
]
Biases = Annotated[
    dict[
        Annotated[str, Field(pattern=r"^[0-9]{1,9}$")],
        Annotated[float, Field(ge=-100, le=100)],
    ],
    Field(max_length=hard_limit("max_logit_biases")),
]


class StreamOptions(Body):
    include_usage: bool | None = None
    """Send the usage of the whole answer in one more event before `[DONE]`. Default: false, unless
    the operator sets `STREAM_USAGE`."""
    continuous_usage_stats: bool | None = None
    """Send the usage so far in every event. Default: false."""


class CommonFields(Body):
    """What OpenAI's API as vLLM extends it, and SGLang's own, have by the same names."""

    n: Annotated[int, Field(ge=1)] | None = None
    """Number of answers to generate for each prompt or conversation, at most `MAX_CHOICES`.
    Default: 1."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Randomness of the choice of each token; 0 takes the likeliest one. Default: the operator's
    (`DEFAULT_SAMPLING`) or the model's, else 1."""
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Sample only from the likeliest tokens whose probabilities add up to this. Default: the
    operator's or the model's, else 1."""
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    """Sample only from this many of the likeliest tokens, at most the size of the vocabulary; 0 and
    -1 are off. Default: the operator's or the model's, else off."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Leave out tokens below this share of the likeliest token's probability. Refused above 0 with
    speculative or deterministic decoding. Default: the operator's or the model's, else 0."""
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Lower the score of a token by this much for each time that the answer has it already; below 0
    raises it. Default: 0."""
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Lower the score of a token by this much once the answer has it; below 0 raises it. Default:
    0."""
    repetition_penalty: Annotated[float, Field(ge=0.01, le=2)] | None = None
    """Divide the score of a token by this once the answer has it (multiply a negative score); 1 is
    off. Default: the operator's or the model's, else 1."""
    stop: Stops | None = None
    """End the answer before the first of these texts: one, or up to `MAX_STOPS`, of at most
    `MAX_STOP_CHARS` characters each."""
    stop_token_ids: StopTokenIds | None = None
    """End the answer at any of these tokens, at most `MAX_STOP_TOKEN_IDS`. Without effect with
    `ignore_eos`."""
    ignore_eos: bool | None = None
    """Go on after the model's end token, up to the maximum of tokens. Without effect with a schema
    or a grammar. Default: false."""
    skip_special_tokens: bool | None = None
    """Leave special tokens out of the answer's text. Default: true."""
    logit_bias: Biases | None = None
    """Number to add to the score of a token, by its id as a string; at most `MAX_LOGIT_BIASES`
    entries."""


class SamplingFields(CommonFields, GrammarFields, BeamFields):
    """The sampling fields of chat and plain completions."""

    model: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """A name from `/v1/models` (the model, an alias or an adapter), `default` or `sglang`. Others
    are 404, unless the operator takes any name. Default: the served model."""
    stream: bool | None = None
    """Send the answer as server-sent events while it is generated. Default: false."""
    stream_options: StreamOptions | None = None
    """What the events of a stream also carry. Refused without `stream: true`."""
    min_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Least number of tokens of the answer; refused above its maximum. Without effect with a
    schema, a grammar or a budget of thinking. Default: 0."""
    cache_salt: Annotated[str, Field(max_length=256)] | None = None
    """Share the prefix cache only with requests that have the same text here."""
    prompt_cache_key: Annotated[str, Field(max_length=512)] | None = None
    """The client's name for the conversation. It separates prefix caches with `CACHE_SCOPE=session`
    and has no effect otherwise."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    """Seed of the sampling. Honoured only with the engine option `enable_deterministic_inference`,
    without effect otherwise."""
    user: Annotated[str, Field(max_length=512)] | None = None
    """The client's id of its user. Without effect."""

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
        return {"logit_bias": bounds.max_logit_biases, "stop": bounds.max_stops}

    def include_usage(self, bounds: Bounds) -> bool:
        """A stream ends with its usage: as the client asks, else as the operator has it."""
        asked = None if self.stream_options is None else self.stream_options.include_usage
        return bounds.stream_usage if asked is None else asked

    @property
    def progress(self) -> bool:
        """Every frame carries the usage so far."""
        return bool(self.stream_options and self.stream_options.continuous_usage_stats)

    def sampling(
        self,
        bounds: Bounds,
        *,
        max_tokens: int | None,
        thinking_budget: int | None = None,
        beam_width: int | None = None,
    ) -> Sampling:
        top_k = self.top_k
        sampling = Sampling(
            max_tokens=max_tokens,
            min_tokens=self.min_tokens or 0,
            temperature=self.temperature,
            # To OpenAI 0 means "only the likeliest token"; the engine requires a value above 0.
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
            grammar=self.constraint(bounds),
            thinking_budget=thinking_budget,
            beam_width=beam_width,
        )
        check_counts(sampling, bounds)
        if beam_width is not None and sampling.grammar is not None:
            raise UnsupportedParameter(
                "The engine does not search with beams by a schema or grammar.",
                param=sampling.grammar.param,
            )
        if beam_width is not None and thinking_budget is not None:
            raise UnsupportedParameter(
                "The engine does not search with beams within a budget of thinking.",
                param="thinking_budget",
            )
        return sampling


def check_counts(
    sampling: Sampling, bounds: Bounds, *, within: str = "", stops: str = "stop"
) -> None:
    """Raises InvalidRequest that names the list or text that is too long. `within`: prefix of the
    fields' names. `stops`: the field of the stop strings."""
    for field, entries, most in (
        (stops, sampling.stop, bounds.max_stops),
        ("stop_token_ids", sampling.stop_token_ids, bounds.max_stop_token_ids),
        ("logit_bias", sampling.logit_bias or (), bounds.max_logit_biases),
    ):
        if len(entries) > most:
            raise too_many(within + field, most)
    for no, text in enumerate(sampling.stop):
        if len(text) > bounds.max_stop_chars:
            raise InvalidRequest(
                f"Invalid value for '{within}{stops}[{no}]': must have at most "
                f"{bounds.max_stop_chars} characters.",
                param=f"{within}{stops}[{no}]",
                code="string_above_max_length",
            )


def alternative_count(count: int | None, bounds: Bounds, *, param: str) -> int:
    """How many alternatives to each token to return. Raises InvalidRequest above MAX_LOGPROBS."""
    if count is not None and count > bounds.max_logprobs:
        raise above(param, bounds.max_logprobs)
    return count or 0


def choice_count(body: SamplingFields, call: Call) -> int:
    """How many choices to generate. Raises InvalidRequest above MAX_CHOICES."""
    n = body.n or 1
    if n > call.bounds.max_choices:
        raise above("n", call.bounds.max_choices)
    return n
