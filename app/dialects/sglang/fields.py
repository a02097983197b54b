"""The allow-list of SGLang's fields in `/generate`, and their lowering.

Source: GenerateReqInput (sglang/srt/managers/io_struct.py) and SamplingParams
(sglang/srt/sampling/sampling_params.py) of SGLang 0.5.23.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import msgspec
import orjson
from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from app.dialects.body import Body, Unsupported
from app.dialects.openai.grammars import schema_grammar
from app.dialects.openai.sampling import CommonFields, check_counts
from app.dialects.prompts import IDS_SCHEMA, TEXTS_SCHEMA, read_prompts
from app.dialects.sglang import unsupported as known
from app.errors import InvalidRequest, UnsupportedParameter
from app.grammars.bounds import check_regex, check_schema, check_text
from app.settings.bounds import Bounds, hard_limit
from app.types import Grammar, Json, Picture, Prompt, Sampling

_DEFAULT_MAX_TOKENS = 128
"""SGLang's."""
_GrammarKind: TypeAlias = Literal["json_schema", "regex", "ebnf", "structural_tag"]
_GRAMMARS: tuple[_GrammarKind, ...] = ("json_schema", "regex", "ebnf", "structural_tag")


def _texts(value: Any) -> tuple[Prompt, ...]:
    if not isinstance(value, str) and not (
        isinstance(value, list) and value and all(isinstance(each, str) for each in value)
    ):
        raise ValueError("must be a string or an array of strings, and not empty.")
    return read_prompts(value, "text")


def _ids(value: Any) -> tuple[Prompt, ...]:
    if not isinstance(value, list) or not value or isinstance(value[0], str):
        raise ValueError("must be an array of token ids or an array of those, and not empty.")
    return read_prompts(value, "input_ids")


def _same_for_all(value: Any) -> Any:
    """Reduce a list with one value per prompt to that value. Raises ValueError if they differ."""
    if not isinstance(value, list):
        return value
    if not value or any(each != value[0] for each in value):
        raise ValueError("must be the same for every prompt.")
    return value[0]


def _pictures(value: Any) -> Any:
    """None, one, those of the prompt, or those of each prompt."""
    if value is None or isinstance(value, str) or _are_texts(value):
        return value or None
    if not isinstance(value, list) or not all(
        each is None or isinstance(each, str) or _are_texts(each) for each in value
    ):
        raise ValueError("must be a picture as 'data:' URL, URL or base64, or an array of those.")
    return value


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


Texts = Annotated[Any, PlainValidator(_texts), WithJsonSchema(TEXTS_SCHEMA)]
Ids = Annotated[Any, PlainValidator(_ids), WithJsonSchema(IDS_SCHEMA)]
Same = BeforeValidator(_same_for_all)


class GenerateSampling(CommonFields):
    """SGLang's SamplingParams. Unknown fields are refused, as SGLang refuses them."""

    unsupported: ClassVar[Unsupported] = known.SAMPLING
    reasons: ClassVar[Mapping[str, str]] = known.because(known.SAMPLING_REASONS)
    descriptions: ClassVar[Mapping[str, str]] = {
        "temperature": "Randomness of the choice of each token; 0 takes the likeliest one. "
        "Default: 1, whatever the model's generation config says.",
        "top_p": "Sample only from the likeliest tokens whose probabilities add up to this. "
        "Default: 1.",
        "top_k": "Sample only from this many of the likeliest tokens, at most the size of the "
        "vocabulary; 0 and -1 are off. Default: off.",
        "min_p": "Leave out tokens below this share of the likeliest token's probability. Refused "
        "above 0 with speculative or deterministic decoding. Default: 0.",
        "repetition_penalty": "Divide the score of a token by this once the answer has it "
        "(multiply a negative score); 1 is off. Default: 1.",
    }

    max_new_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = _DEFAULT_MAX_TOKENS
    """Most tokens of each answer; with the prompt at most the context. `null`: up to the end of the
    context; 0: the prompt alone."""
    min_new_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Least number of tokens of the answer, at most `max_new_tokens`. Without effect with a schema
    or a grammar. Default: 0."""
    sampling_seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    """Seed of the sampling. Honoured only with the engine option `enable_deterministic_inference`,
    without effect otherwise."""
    no_stop_trim: bool | None = None
    """Keep the stop string or token, at which the answer ended, in its text. Default: false."""
    json_schema: str | None = None
    """The JSON schema that the answer follows, as text. Only one field may constrain the answer."""
    regex: str | None = None
    """The regular expression that the whole answer matches. Only with `ALLOW_GRAMMARS=true`."""
    ebnf: str | None = None
    """The grammar that the answer follows, in GBNF or Lark. Only with `ALLOW_GRAMMARS=true`."""
    structural_tag: str | None = None
    """The structural tag that the answer follows, as the text of a JSON object. Only with
    `ALLOW_GRAMMARS=true`."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for name in data.keys() - cls.model_fields.keys() - cls.unsupported.keys():
                raise PydanticCustomError("unsupported_parameter", "", {"field": name})
        return data

    def lower(self, bounds: Bounds) -> Sampling:
        if self.max_new_tokens is not None and (self.min_new_tokens or 0) > self.max_new_tokens:
            raise InvalidRequest(
                f"min_new_tokens must be at most max_new_tokens ({self.max_new_tokens}).",
                param="sampling_params.min_new_tokens",
            )
        sampling = Sampling(
            max_tokens=self.max_new_tokens,
            min_tokens=self.min_new_tokens or 0,
            # SGLang's defaults. The model's generation config does not apply to this endpoint.
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else max(self.top_p, 1e-6),
            top_k=self.top_k or -1,
            min_p=self.min_p or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            stop=tuple(self.stop or ()),
            stop_token_ids=tuple(self.stop_token_ids or ()),
            ignore_eos=bool(self.ignore_eos),
            skip_special_tokens=self.skip_special_tokens is not False,
            keep_stop=bool(self.no_stop_trim),
            logit_bias=self.logit_bias or None,
            seed=self.sampling_seed,
            grammar=self._grammar(bounds),
        )
        check_counts(sampling, bounds, within="sampling_params.")
        return sampling

    def _grammar(self, bounds: Bounds) -> Grammar | None:
        """The grammar of the one field that is not empty. Raises InvalidRequest."""
        set_fields = [(kind, text) for kind in _GRAMMARS if (text := getattr(self, kind))]
        if not set_fields:
            return None
        (kind, text), (last, _) = set_fields[0], set_fields[-1]
        param = f"sampling_params.{last}"
        if len(set_fields) > 1:
            second = set_fields[1][0]
            raise InvalidRequest(f"'{kind}' and '{second}' exclude each other.", param=param)
        if kind == "json_schema":
            check_text(text, bounds.grammar, param=param)
            return schema_grammar(_decoded(text, param), bounds.grammar, param)
        if not bounds.allow_grammars:
            raise UnsupportedParameter(
                f"'{param}' is not taken by this server; use json_schema. The operator can allow "
                "it with ALLOW_GRAMMARS=true.",
                param=param,
            )
        if kind == "regex":
            check_regex(text, bounds.grammar, param=param)
        else:
            check_text(text, bounds.grammar, param=param)
        if kind == "structural_tag":
            check_schema(_decoded(text, param), bounds.grammar, param=param)
        return Grammar(kind, text, param)


def _decoded(text: str, param: str) -> Json:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise InvalidRequest(
            f"Invalid value for '{param}': must be a JSON object, as a string.", param=param
        )
    return value


class GenerateBody(Body):
    """SGLang's GenerateReqInput."""

    unsupported: ClassVar[Unsupported] = known.FIELDS
    reasons: ClassVar[Mapping[str, str]] = known.because(known.REASONS)

    text: Texts | None = None
    """What to continue: a text or texts, at most `MAX_PROMPTS`. Either this or `input_ids`."""
    input_ids: Ids | None = None
    """What to continue, as the token ids of one prompt or of several, at most `MAX_PROMPTS`."""
    sampling_params: Annotated[GenerateSampling, Same] | None = None
    """How to choose tokens, and where to end. A list must have the same for every prompt."""
    stream: bool | None = None
    """Send the answer as server-sent events while it is generated; each has the whole answer so
    far. Default: false."""
    return_logprob: Annotated[bool, Same] | None = None
    """Return the log-probability of each token, as the model has it before sampling. A list must
    have the same for every prompt. Default: false."""
    logprob_start_len: Annotated[int, Field(ge=-1, lt=2**31), Same] | None = None
    """Position in the prompt from which its tokens have log-probabilities, too; -1: none of them.
    Default: -1."""
    top_logprobs_num: Annotated[int, Field(ge=0, le=hard_limit("max_logprobs")), Same] | None = None
    """Number of likeliest alternatives to return for each token, with `return_logprob`; at most
    `MAX_LOGPROBS`. Default: 0."""
    return_text_in_logprobs: bool | None = None
    """Return the text of each token beside its id, with `return_logprob`. Default: false."""
    image_data: Annotated[Any, PlainValidator(_pictures), WithJsonSchema({})] | None = None
    """Pictures (`data:` URL, URL or base64): one, a list, or one of either for each prompt. Only
    with `text`, which has the model's own marker for each."""
    lora_path: Annotated[str, Field(min_length=1, max_length=200), Same] | None = None
    """Name of the adapter to answer with, not a path. A list must have the same for every prompt.
    Default: none."""
    cache_salt: Annotated[str, Field(max_length=256), Same] | None = None
    """Share the prefix cache only with requests that have the same text here. A list must have the
    same for every prompt."""

    @classmethod
    def lengths(cls, bounds: Bounds) -> dict[str, int]:
        return dict.fromkeys(("text", "input_ids", "sampling_params"), bounds.max_prompts)

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """Raises InvalidRequest if there are pictures that are no prompt's."""
        prompts: tuple[Prompt, ...] = self.text or self.input_ids or ()
        if not self.image_data:
            return prompts
        if self.text is None:
            raise UnsupportedParameter(
                "'image_data' is taken beside 'text', and not beside 'input_ids'.",
                param="image_data",
            )
        listed = prompts[0].param.endswith("]")
        several = self.image_data if listed else [self.image_data]
        if not isinstance(several, list) or len(several) != len(prompts):
            raise InvalidRequest(
                f"Invalid value for 'image_data': must have an entry for each of {len(prompts)} "
                "prompts.",
                param="image_data",
            )
        return tuple(
            msgspec.structs.replace(
                prompt, pictures=_of_prompt(each, f"image_data[{no}]" if listed else "image_data")
            )
            for no, (prompt, each) in enumerate(zip(prompts, several, strict=True))
        )

    @model_validator(mode="after")
    def _one_kind_of_prompt(self) -> GenerateBody:
        if self.text and self.input_ids:
            raise InvalidRequest("'text' and 'input_ids' exclude each other.", param="input_ids")
        if not self.text and not self.input_ids:
            raise InvalidRequest(
                "Missing required parameter: 'text' or 'input_ids'.",
                param="text",
                code="missing_required_parameter",
            )
        return self


def _of_prompt(pictures: Any, param: str) -> tuple[Picture, ...]:
    if not pictures:
        return ()
    if isinstance(pictures, str):
        return (Picture(_url(pictures), param),)
    if pictures and isinstance(pictures[0], list):  # of one prompt, as SGLang writes it
        pictures = pictures[0]
    return tuple(Picture(_url(each), f"{param}[{no}]") for no, each in enumerate(pictures) if each)


def _url(picture: str) -> str:
    """SGLang takes base64 without more, too."""
    return picture if ":" in picture[:10] else f"data:image/png;base64,{picture}"
