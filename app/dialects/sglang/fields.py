"""What `/generate` may be asked: SGLang's fields on an allow-list, and their lowering.

Source: GenerateReqInput (sglang/srt/managers/io_struct.py) and SamplingParams
(sglang/srt/sampling/sampling_params.py) of SGLang 0.5.23.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import orjson
from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from app.dialects.body import Body
from app.dialects.openai import sampling as fields
from app.dialects.openai.grammars import schema_grammar
from app.dialects.openai.sampling import Biases, Stops, StopTokenIds
from app.dialects.prompts import read_prompts
from app.errors import InvalidRequest, UnsupportedParameter
from app.generation.grammars import check_regex, check_schema, check_text
from app.settings.bounds import Bounds, hard_limit
from app.types import Grammar, Json, Prompt, Sampling

_DEFAULT_MAX_TOKENS = 128
"""SGLang's."""
IGNORED = ("rid", "session_id", "routing_key", "conversation_id", "log_metrics", "custom_labels")
"""Fields that change no answer. A `rid` never reaches the engine, which aborts by its prefix."""

_GRAMMARS: tuple[Literal["json_schema", "regex", "ebnf", "structural_tag"], ...] = (
    "json_schema", "regex", "ebnf", "structural_tag",
)  # fmt: skip
_ONLY_FALSE, _ONLY_NULL = (False,), ()
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        (
            "use_audio_in_video", "return_sampling_mask", "return_flat_raw_top_logprobs",
            "return_flat_raw_output_top_logprobs", "return_flat_raw_top_logprobs_b64",
            "return_hidden_states", "return_routed_experts", "return_indexer_topk", "background",
            "require_reasoning", "no_logs", "return_bytes", "return_entropy",
            "return_prompt_token_ids", "need_wait_for_mm_inputs",
        ),
        _ONLY_FALSE,
    ),
    **dict.fromkeys(
        (
            "input_embeds", "mm_hashes", "mm_content_hashes", "video_config", "watermark",
            "sampling_logprobs_mode", "session_params", "lora_path", "lora_id",
            "custom_logit_processor", "positional_embed_overrides", "bootstrap_host",
            "bootstrap_port", "bootstrap_room", "bootstrap_pair_key", "decode_tp_size",
            "disagg_prefill_dp_rank", "http_worker_ipc", "max_thinking_tokens", "priority",
            "extra_key", "external_trace_header", "received_time", "num_items_assigned",
            "encoder_urls", "max_dynamic_patch", "min_dynamic_patch", "image_max_dynamic_patch",
            "video_max_dynamic_patch", "images_config", "mm_processor_kwargs",
            "multi_item_delimiter_indices", "token_indices_to_pool", "cache_salt", "kv_hints",
        ),
        _ONLY_NULL,
    ),
    "image_data": ([],), "video_data": ([],), "audio_data": ([],), "modalities": ([],),
    "token_ids_logprob": ([],), "routed_experts_start_len": (0,), "routed_dp_rank": (0,),
    "data_parallel_rank": (0,),
}  # fmt: skip


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
    """One value, or a list that has the same one for every prompt."""
    if not isinstance(value, list):
        return value
    if not value or any(each != value[0] for each in value):
        raise ValueError("must be the same for every prompt.")
    return value[0]


_TEXT: Json = {"type": "string"}
_ID_LIST: Json = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
Texts = Annotated[
    Any,
    PlainValidator(_texts),
    WithJsonSchema({"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]}),
]
Ids = Annotated[
    Any,
    PlainValidator(_ids),
    WithJsonSchema({"anyOf": [_ID_LIST, {"type": "array", "items": _ID_LIST, "minItems": 1}]}),
]
Same = BeforeValidator(_same_for_all)


class NativeSampling(Body):
    """SGLang's SamplingParams. What it does not know, it refuses, and so do we."""

    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = {
        "stop_regex": ([],), "beam_width": (1,), "stream_interval": (), "custom_params": (),
        "watermark": (), "spaces_between_special_tokens": (True,), "no_stop_trim": (False,),
    }  # fmt: skip

    max_new_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = _DEFAULT_MAX_TOKENS
    """None: up to the end of the context."""
    min_new_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=2)] | None = None
    stop: Stops | None = None
    stop_token_ids: StopTokenIds | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    n: Annotated[int, Field(ge=1, le=hard_limit("max_choices"))] | None = None
    logit_bias: Biases | None = None
    sampling_seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    json_schema: str | None = None
    regex: str | None = None
    ebnf: str | None = None
    structural_tag: str | None = None

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
            # SGLang's defaults: here the model's own generation config has no say.
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
            logit_bias=self.logit_bias or None,
            seed=self.sampling_seed,
            grammar=self._grammar(bounds),
        )
        fields.check_counts(sampling, bounds, within="sampling_params.")
        return sampling

    def _grammar(self, bounds: Bounds) -> Grammar | None:
        """The one that was asked for, within its bounds; an empty text asks for none."""
        wanted = [(kind, text) for kind in _GRAMMARS if (text := getattr(self, kind))]
        if not wanted:
            return None
        (kind, text), param = wanted[0], f"sampling_params.{wanted[-1][0]}"
        if len(wanted) > 1:
            raise InvalidRequest(f"'{kind}' and '{wanted[1][0]}' exclude each other.", param=param)
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
        return Grammar(kind, text)


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


class NativeBody(Body):
    """SGLang's GenerateReqInput. `rid` and the like are ignored: see IGNORED."""

    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = _UNSUPPORTED

    text: Texts | None = None
    input_ids: Ids | None = None
    sampling_params: Annotated[NativeSampling, Same] | None = None
    stream: bool | None = None
    return_logprob: Annotated[bool, Same] | None = None
    logprob_start_len: Annotated[int, Field(ge=-1, lt=2**31), Same] | None = None
    """-1: log-probabilities of the answer only."""
    top_logprobs_num: Annotated[int, Field(ge=0, le=hard_limit("max_logprobs")), Same] | None = None
    return_text_in_logprobs: bool | None = None

    @classmethod
    def lengths(cls, bounds: Bounds) -> dict[str, int]:
        return dict.fromkeys(("text", "input_ids", "sampling_params"), bounds.max_prompts)

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return self.text or self.input_ids or ()

    @model_validator(mode="after")
    def _one_kind_of_prompt(self) -> NativeBody:
        if self.text and self.input_ids:
            raise InvalidRequest("'text' and 'input_ids' exclude each other.", param="input_ids")
        if not self.text and not self.input_ids:
            raise InvalidRequest(
                "Missing required parameter: 'text' or 'input_ids'.",
                param="text",
                code="missing_required_parameter",
            )
        return self
