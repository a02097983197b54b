"""What a model served by SGLang's public API is, as far as SGLang tells and its files say."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from typing import Any

import msgspec

from app.engine.base import EngineInfo
from app.engine.model_cache import called
from app.engine.sglang.infill import Infill
from app.engine.sglang.moved import installed
from app.engine.sglang.public.rendering import Tokenizing
from app.engine.sglang.sampling_names import SAMPLERS, valid_defaults
from app.settings.catalogue import Settings
from app.types import Json


class PublicModel(msgspec.Struct, frozen=True, kw_only=True):
    info: EngineInfo
    options: Json
    """SGLang's, resolved, and what its scheduler tells of itself."""
    ends: Sequence[int]
    """Ids that end an answer; empty: the tokenizer's."""
    replicas: int
    max_running: int
    """The largest batch of one."""
    max_tokens: int
    """The KV cache of one."""
    separates_caches: bool
    """Requests can name the part of the prefix cache that they are in."""


def model_of(
    settings: Settings, engine: Any, told: Json, tokenizing: Tokenizing, *, fingerprint: str
) -> PublicModel:
    """`told`: by `Engine.get_server_info`. Reads the model's files."""
    own, ends = _generation_of(told)
    return PublicModel(
        info=_info(settings, told, tokenizing, own=own, fingerprint=fingerprint),
        options={name: value for name, value in told.items() if name != "launch_command"},
        ends=ends,
        replicas=told.get("dp_size") or 1,
        max_running=told.get("max_running_requests") or 0,
        max_tokens=told.get("max_total_num_tokens") or 0,
        separates_caches="cache_salt" in inspect.signature(engine.async_generate).parameters,
    )


def _generation_of(told: Json) -> tuple[Json, list[int]]:
    """How the model's makers sample, and the ids that end an answer."""
    from transformers import GenerationConfig

    try:
        config = GenerationConfig.from_pretrained(told["model_path"], revision=told.get("revision"))
    except OSError:  # the model has none
        return {}, []
    ends = config.eos_token_id
    own = {name: value for name, value in config.to_diff_dict().items() if name in SAMPLERS}
    if told.get("sampling_defaults", "model") != "model":
        own = {}
    return own, list(ends) if isinstance(ends, list) else [] if ends is None else [ends]


def _info(
    settings: Settings, told: Json, tokenizing: Tokenizing, *, own: Json, fingerprint: str
) -> EngineInfo:
    from transformers import AutoConfig

    path, revision = told["model_path"], told.get("revision")
    config = AutoConfig.from_pretrained(
        path, revision=revision, trust_remote_code=settings.trust_remote_code
    )
    text = config.get_text_config()
    context = told.get("max_req_input_len") or told.get("context_length")
    context = int(context or text.max_position_embeddings)
    preferred = told.get("preferred_sampling_params") or {}
    if isinstance(preferred, str):
        preferred = json.loads(preferred)
    tokenizer, renderer = tokenizing.here()
    return EngineInfo(
        model_path=called(settings.model_path, path) or path,
        version=f"sglang {installed()}",
        fingerprint=fingerprint,
        device=str(told.get("device") or "cuda"),
        context_length=context,
        max_prompt_tokens=context - 1,
        vocab_size=text.vocab_size,
        model_type=getattr(config, "model_type", None),
        architectures=tuple(getattr(config, "architectures", None) or ()),
        honours_seed=bool(told.get("enable_deterministic_inference")),
        drafts=told.get("speculative_algorithm") is not None,
        default_sampling=valid_defaults(own | settings.default_sampling, preferred),
        tool_call_parser=renderer.tool_call_parser,
        reasoning_parser=renderer.reasoning_parser,
        bounds_thinking=False,
        caches_prefixes=not told.get("disable_radix_cache", False),
        fills_middle=Infill.of(tokenizer) is not None,
    )
