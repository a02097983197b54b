"""Values that are called otherwise today, or are another setting's: rules over all settings.

A rule looks at the values that were set and says which fields change, with a warning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from app.errors import ConfigError
from app.settings.speculation import Origins, Translation, Values, drafts, vllms_drafts

Rule: TypeAlias = Callable[[Values, Origins], Translation | None]


def modernise(values: Values, origins: Origins) -> tuple[dict[str, Any], list[str]]:
    """The fields to change so that obsolete values say what they mean today, and the warnings.

    Raises ConfigError for settings that contradict each other.
    """
    changes: dict[str, Any] = {}
    warnings = []
    for rule in _RULES:
        if (translation := rule({**values, **changes}, origins)) is not None:
            change, warning = translation
            changes |= change
            if warning:
                warnings.append(warning)
    return changes, warnings


def _value(field: str, old: object, target: str, new: object) -> Rule:
    """A value that has another name today, or is another setting's."""

    def rule(values: Values, origins: Origins) -> Translation | None:
        if values[field] != old:
            return None
        written = f"{origins[field]}={_spelled(old)}"
        if field != target and values[target] is not None:
            return {}, f"{written}: no effect beside {origins[target]}"
        cleared = {} if field == target else {field: False if old is True else None}
        return (
            cleared | {target: new},
            f"{written} is obsolete: taken as {target.upper()}={_spelled(new)}",
        )

    return rule


def _spelled(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value


def _memory(values: Values, origins: Origins) -> Translation | None:
    utilization = values["gpu_memory_utilization"]
    if utilization is None:
        return None
    origin = origins["gpu_memory_utilization"]
    if values["mem_fraction_static"] is not None:
        return {}, f"{origin}: no effect beside MEM_FRACTION_STATIC"
    share = round(max(min(utilization, 0.95) - 0.05, 0.05), 3)
    return {"mem_fraction_static": share}, (
        f"{origin}={utilization:g} is taken as MEM_FRACTION_STATIC={share:g}: "
        "SGLang's share leaves out the activations"
    )


def _chunks(values: Values, origins: Origins) -> Translation | None:
    chunked, size = values["chunked_prefill"], values["chunked_prefill_size"]
    if chunked is None or (chunked and size != -1):
        return None
    origin = origins["chunked_prefill"]
    if chunked or size not in (None, -1):
        raise ConfigError(
            f"{origin}={_spelled(chunked)} and "
            f"{origins['chunked_prefill_size']}={size} contradict each other; keep one"
        )
    return {"chunked_prefill_size": -1}, (
        f"{origin}=false: long prompts are prefilled in one go, which takes more memory"
    )


def _prefixes(values: Values, origins: Origins) -> Translation | None:
    caching = values["enable_prefix_caching"]
    if caching and values["disable_radix_cache"]:
        raise ConfigError(
            f"{origins['enable_prefix_caching']}=true and {origins['disable_radix_cache']}=true "
            "contradict each other; keep one"
        )
    if caching is not False:
        return None
    return {"disable_radix_cache": True}, (
        f"{origins['enable_prefix_caching']}=false is taken as DISABLE_RADIX_CACHE=true: every "
        "prompt is computed anew; remove it to have SGLang's prefix cache"
    )


def _blocks(values: Values, origins: Origins) -> Translation | None:
    blocks, size = values["num_gpu_blocks_override"], values["block_size"]
    if blocks is None:
        if size is None:
            return None
        return {}, f"{origins['block_size']}: no effect (SGLang chooses its page size)"
    if values["kv_pool_tokens"] is not None:
        raise ConfigError(
            f"{origins['num_gpu_blocks_override']} and {origins['kv_pool_tokens']} are the same "
            "setting; keep one"
        )
    tokens = blocks * (size or 16)
    return {"kv_pool_tokens": tokens}, (
        f"{origins['num_gpu_blocks_override']}={blocks} is taken as KV_POOL_TOKENS={tokens}"
    )


def _grammars(values: Values, origins: Origins) -> Translation | None:
    backend = values["guided_decoding_backend"]
    if backend in (None, "auto", "guidance"):
        return None
    return {}, (
        f"{origins['guided_decoding_backend']}={backend}: no effect (grammars are llguidance's)"
    )


_ATTENTION = {
    "FLASHINFER": "flashinfer",
    "TRITON_ATTN": "triton",
    "TRITON_ATTN_VLLM_V1": "triton",
    "FLASH_ATTN": "fa3",
    "FLASH_ATTN_VLLM_V1": "fa3",
    "FLASHMLA": "flashmla",
    "TORCH_SDPA": "torch_native",
    "FLEX_ATTENTION": "flex_attention",
}
"""vLLM's names of attention kernels -> SGLang's."""


def _attention(values: Values, origins: Origins) -> Translation | None:
    name = _ATTENTION.get(values["attention_backend"] or "")
    if name is None:
        return None
    written = f"{origins['attention_backend']}={values['attention_backend']}"
    return {"attention_backend": name}, f"{written} is taken as ATTENTION_BACKEND={name}"


def _template_text(values: Values, origins: Origins) -> Translation | None:
    """vLLM's one flag takes a template's text or its path; so does today's CUSTOM_CHAT_TEMPLATE."""
    name, text = values["chat_template"], values["custom_chat_template"]
    if name is not None and "{" in name:
        return {"chat_template": None, "custom_chat_template": name}, ""
    if text is not None and "{" not in text and "/" in text and "\n" not in text:
        return {"chat_template": text, "custom_chat_template": None}, ""
    return None


def _models_sampling(values: Values, origins: Origins) -> Translation | None:
    source = values["generation_config"]
    if source is None or source == "auto":
        return None
    if source != "vllm":
        raise ConfigError(
            f"{origins['generation_config']} cannot be honoured: the generation config is the "
            "model's own (auto) or none (vllm); DEFAULT_SAMPLING changes it"
        )
    args = {"sampling_defaults": "openai"} | values["engine_args"]
    return {"engine_args": args}, (
        f"{origins['generation_config']}=vllm is taken as "
        'ENGINE_ARGS={"sampling_defaults": "openai"}'
    )


def _health_path(values: Values, origins: Origins) -> Translation | None:
    path = values["health_check_path"]
    if path not in ("/health", "/readyz"):
        return None
    return {}, (
        f"{origins['health_check_path']}={path}: it answers 503 while the model loads, which "
        "RunPod's load balancer calls unhealthy; /ping answers 204"
    )


_BATCHES = {"max_batch_size": 50, "min_batch_size": 1, "batch_size_growth_factor": 3.0}
"""worker-vllm's batches of tokens, with the defaults that its form still sends."""


def _batches(values: Values, origins: Origins) -> Translation | None:
    own = [field for field, default in _BATCHES.items() if values[field] != default]
    if not own or "job_output" in origins:
        return None
    return {}, (
        f"{origins[own[0]]}: clients of worker-vllm before 2026-07, which had it, read "
        "choices[].tokens; JOB_OUTPUT=classic answers them so"
    )


_RULES: tuple[Rule, ...] = (
    _value("load_balance_method", "shortest_queue", "load_balance_method", "total_requests"),
    _value("quantization", "marlin", "quantization", "gptq_marlin"),
    _value("kv_cache_dtype", "fp8", "kv_cache_dtype", "fp8_e4m3"),
    _value("tokenizer_mode", "mistral", "tokenizer_mode", "auto"),
    _value("enable_flashinfer_mla", True, "attention_backend", "flashinfer"),
    _memory,
    _chunks,
    _prefixes,
    _blocks,
    _grammars,
    vllms_drafts,
    drafts,
    _attention,
    _template_text,
    _models_sampling,
    _health_path,
    _batches,
    _value("model_impl", "vllm", "model_impl", "sglang"),
)
