"""Fields that the OpenAI endpoints share, and their lowering.

Source: OpenAI's OpenAPI document; `top_k`, `min_p`, `repetition_penalty`, `min_tokens`,
`ignore_eos`, `stop_token_ids`, `skip_special_tokens`, `regex`, `ebnf` as SGLang and vLLM accept
them, `guided_*` and `structured_outputs` as vLLM does, read 2026-11.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Annotated, Any, Literal

import orjson
from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from app.dialects.contract import Body, Bounds, Call
from app.errors import InvalidRequest, ServeError, UnsupportedParameter
from app.events import ScoredToken, Token, Usage
from app.generation.grammars import GrammarBounds, check_regex, check_schema, check_text
from app.types import Grammar, Json, Sampling

# What no operator can allow more of; SGLang itself takes 32 stop strings.
_MAX_STOPS, _MAX_STOP_CHARS = 32, 4096
_MAX_STOP_TOKEN_IDS = 1024
_MAX_BIASES = 4096

# Everything here changes the result, and what this server does not honour it must not swallow.
# With each name the values that change nothing.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "add_special_tokens": (True,), "allowed_token_ids": (), "audio": (), "bad_words": ([],),
    "beam_width": (1,), "cache_salt": (), "chat_template": (), "custom_logit_processor": (),
    "custom_params": (), "extra_key": (), "function_call": ("none",), "functions": ([],),
    "include_stop_str_in_output": (False,), "input_embeds": (), "length_penalty": (1.0, 1),
    "logits_processors": (), "lora_path": (), "max_new_tokens": (), "max_thinking_tokens": (),
    "modalities": (["text"],), "no_repeat_ngram_size": (0,), "thinking_budget": (),
    "typical_p": (1.0, 1),
    "no_stop_trim": (False,), "prompt_embeds": (), "prompt_logprobs": (),
    "return_hidden_states": (False,), "return_token_ids": (False,),
    "separate_reasoning": (True,), "session_params": (), "stop_regex": (),
    "truncate_prompt_tokens": (), "use_beam_search": (False,), "verbosity": ("low", "medium"),
    "web_search_options": (),
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
StopTokenIds = Annotated[list[TokenId], Field(max_length=_MAX_STOP_TOKEN_IDS, fail_fast=True)]
Biases = Annotated[
    dict[
        Annotated[str, Field(pattern=r"^[0-9]{1,9}$")],
        Annotated[float, Field(ge=-100, le=100)],
    ],
    Field(max_length=_MAX_BIASES),
]


class StreamOptions(Body):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class JsonSchema(Body):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")] | None = None
    description: Annotated[str, Field(max_length=8192)] | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """`text`, `json_object`, `json_schema`; SGLang's `structural_tag` with ALLOW_GRAMMARS."""

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: JsonSchema | None = None
    format: dict[str, Any] | None = None


class StructuredOutputs(Body):
    """vLLM's name for the grammars below."""

    json_schema: dict[str, Any] | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None


class GrammarFields(Body):
    """What the answer must look like. At most one of them."""

    response_format: ResponseFormat | None = None
    json_schema: dict[str, Any] | str | None = None
    regex: str | None = None
    ebnf: str | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: Annotated[list[str], Field(min_length=1)] | None = None
    guided_grammar: str | None = None
    structured_outputs: StructuredOutputs | None = None

    def grammar(self, bounds: Bounds) -> Grammar | None:
        """The one that was asked for, within its bounds. Raises InvalidRequest."""
        wanted = [field for field in _GRAMMARS if getattr(self, field) is not None]
        if self.response_format is not None and self.response_format.type == "text":
            wanted.remove("response_format")
        if len(wanted) > 1:
            raise InvalidRequest(
                f"'{wanted[0]}' and '{wanted[1]}' exclude each other.", param=wanted[1]
            )
        if not wanted:
            return None
        field = wanted[0]
        if field == "response_format":
            assert self.response_format is not None
            return _response_format(self.response_format, bounds)
        if field != "json_schema":  # SGLang's way of asking for a response format
            _need_grammars(bounds, field)
        if field == "structured_outputs":
            return _structured(self.structured_outputs, bounds)
        return _guided(_GRAMMARS[field], getattr(self, field), bounds.grammar, field)


_GRAMMARS = {
    "response_format": "", "json_schema": "json", "structured_outputs": "", "regex": "regex",
    "ebnf": "grammar",
    "guided_json": "json", "guided_regex": "regex", "guided_choice": "choice",
    "guided_grammar": "grammar",
}  # fmt: skip


def _need_grammars(bounds: Bounds, param: str) -> None:
    if not bounds.allow_grammars:
        raise UnsupportedParameter(
            f"'{param}' is not taken by this server; use response_format with a JSON schema. The "
            "operator can allow it with ALLOW_GRAMMARS=true.",
            param=param,
        )


def _response_format(format: ResponseFormat, bounds: Bounds) -> Grammar:
    param = "response_format"
    match format.type:
        case "json_schema":
            if format.json_schema is None:
                raise InvalidRequest(
                    f"Missing required parameter: '{param}.json_schema'.",
                    param=f"{param}.json_schema",
                    code="missing_required_parameter",
                )
            schema = format.json_schema.json_schema
            if schema is None:
                return Grammar("json_schema", _OBJECT)
            return schema_grammar(schema, bounds.grammar, f"{param}.json_schema.schema")
        case "structural_tag":
            _need_grammars(bounds, param)
            tag = {"type": "structural_tag", "format": format.format or {}}
            check_schema(tag, bounds.grammar, param=param)
            return Grammar("structural_tag", json.dumps(tag), param)
        case _:
            return Grammar("json_schema", _OBJECT)


_OBJECT = '{"type":"object"}'


def schema_grammar(schema: dict[str, Any], bounds: GrammarBounds, param: str) -> Grammar:
    """A JSON schema as a grammar. Raises InvalidRequest that names the bound."""
    check_schema(schema, bounds, param=param)
    return Grammar("json_schema", orjson.dumps(schema).decode(), param)


def _structured(outputs: StructuredOutputs | None, bounds: Bounds) -> Grammar:
    given = {
        "json": outputs and outputs.json_schema, "regex": outputs and outputs.regex,
        "choice": outputs and outputs.choice, "grammar": outputs and outputs.grammar,
    }  # fmt: skip
    named = [(kind, value) for kind, value in given.items() if value]
    if len(named) != 1:
        raise InvalidRequest(
            "'structured_outputs' must have exactly one of json, regex, choice and grammar.",
            param="structured_outputs",
        )
    kind, value = named[0]
    return _guided(kind, value, bounds.grammar, f"structured_outputs.{kind}")


def _guided(kind: str, value: Any, bounds: GrammarBounds, param: str) -> Grammar:
    match kind:
        case "json":
            return schema_grammar(_decoded_schema(value, param), bounds, param)
        case "choice":
            return schema_free_choice(value, bounds, param)
        case "regex":
            check_regex(value, bounds, param=param)
            return Grammar("regex", value, param)
        case _:
            check_text(value, bounds, param=param)
            return Grammar("ebnf", value, param)


def _decoded_schema(value: Any, param: str) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            value = None
    if not isinstance(value, dict):
        raise InvalidRequest(f"Invalid value for '{param}': must be a JSON schema.", param=param)
    return value


def schema_free_choice(choices: list[str], bounds: GrammarBounds, param: str) -> Grammar:
    """One of the texts, as they are, without quotes."""
    if len(choices) > bounds.max_enum:
        raise InvalidRequest(
            f"Invalid value for '{param}': must have at most {bounds.max_enum} entries.",
            param=param,
            code="array_above_max_length",
        )
    text = "root ::= " + " | ".join(json.dumps(choice) for choice in choices)
    check_text(text, bounds, param=param)
    return Grammar("ebnf", text, param)


class SamplingFields(GrammarFields):
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
    stop_token_ids: StopTokenIds | None = None
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
        return {"logit_bias": bounds.max_logit_biases, "stop": bounds.max_stops}

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def progress(self) -> bool:
        """Every frame shall say what has been used so far."""
        return bool(self.stream_options and self.stream_options.continuous_usage_stats)

    def sampling(self, bounds: Bounds, *, max_tokens: int | None) -> Sampling:
        top_k = self.top_k
        sampling = Sampling(
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
            grammar=self.grammar(bounds),
        )
        check_counts(sampling, bounds)
        return sampling


def check_counts(sampling: Sampling, bounds: Bounds, *, within: str = "") -> None:
    """Raises InvalidRequest that names the list that is too long; `within` is what it is in."""
    for field, given, most in (
        ("stop", sampling.stop, bounds.max_stops),
        ("stop_token_ids", sampling.stop_token_ids, bounds.max_stop_token_ids),
        ("logit_bias", sampling.logit_bias or (), bounds.max_logit_biases),
    ):
        if len(given) > most:
            raise InvalidRequest(
                f"Invalid value for '{within}{field}': must have at most {most} entries.",
                param=within + field,
                code="array_above_max_length",
            )
    for no, text in enumerate(sampling.stop):
        if len(text) > bounds.max_stop_chars:
            raise InvalidRequest(
                f"Invalid value for '{within}stop[{no}]': must have at most "
                f"{bounds.max_stop_chars} characters.",
                param=f"{within}stop[{no}]",
                code="string_above_max_length",
            )


def alternatives(count: int | None, bounds: Bounds, *, param: str) -> int:
    """`top_logprobs`, within what the operator allows."""
    if count is not None and count > bounds.max_logprobs:
        raise InvalidRequest(
            f"Invalid value for '{param}': must be at most {bounds.max_logprobs}.",
            param=param,
            code="integer_above_max_value",
        )
    return count or 0


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
    """The name to answer under; raises ModelNotFound for one that is not served, InvalidRequest if
    it generates nothing."""
    name = served_name(body.model, call)
    if call.model.info.embeds:
        raise InvalidRequest(
            "This model gives embeddings and generates no text; use /v1/embeddings.", param="model"
        )
    return name


def served_name(asked: str | None, call: Call) -> str:
    """The name to answer under; raises ModelNotFound for one that is not served."""
    if asked is None:
        return call.model.names[0]
    call.model.check_name(asked)
    return asked if asked in call.model.names else call.model.names[0]


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


def logprob_json(scored: ScoredToken) -> orjson.Fragment:
    """One token of `logprobs.content`, rendered."""
    top = b"},".join([_rendered(each) for each in scored.top])
    return orjson.Fragment(
        b'%b,"top_logprobs":[%b]}' % (_rendered(scored.token), top + b"}" if top else b"")
    )


def _rendered(token: Token) -> bytes:
    """Up to its closing brace."""
    before, after = _around(token.raw)
    return b"%b%b%b" % (before, orjson.dumps(token.logprob), after)


@lru_cache(65_536)
def _around(raw: bytes) -> tuple[bytes, bytes]:
    """What stands before and after a token's log-probability: the same each time."""
    text = orjson.dumps(raw.decode(errors="replace"))
    return b'{"token":%b,"logprob":' % text, b',"bytes":%b' % orjson.dumps(list(raw))


DONE = b"data: [DONE]\n\n"


def frame(data: Json) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def failed(error: ServeError) -> bytes:
    return frame(error_json(error)) + DONE
