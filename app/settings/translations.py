"""What the variables of other servers mean here: values that have changed, names that are gone.

Names that mean the same as here are further names of the settings themselves (catalogue.py);
docs/migrate.md has the whole list, per server.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from app.errors import ConfigError

# -- names without effect ----------------------------------------------------------------------

_GONE_BECAUSE: dict[str, tuple[str, ...]] = {
    "the engine is part of this process": (
        "SGLANG_PORT",
        "SGLANG_HEALTH_TIMEOUT",
        "SGLANG_HEALTH_INTERVAL",
        "WORKER_USE_RAY",
        "RAY_WORKERS_USE_NSIGHT",
        "DISTRIBUTED_EXECUTOR_BACKEND",
    ),
    "tokenisation needs no pool": (
        "TOKENIZER_POOL_SIZE",
        "TOKENIZER_POOL_TYPE",
        "TOKENIZER_POOL_EXTRA_CONFIG",
    ),
    "SGLang schedules and stores without it": (
        "USE_V2_BLOCK_MANAGER",
        "NUM_LOOKAHEAD_SLOTS",
        "PREEMPTION_MODE",
        "PREEMPTION_CHECK_PERIOD",
        "PREEMPTION_CPU_CAPACITY",
        "SCHEDULER_DELAY_FACTOR",
        "SWAP_SPACE",
        "DISABLE_SLIDING_WINDOW",
        "MAX_PARALLEL_LOADING_WORKERS",
    ),
    "CUDA graphs go by batch here, not by length": (
        "MAX_SEQ_LEN_TO_CAPTURE",
        "MAX_CONTEXT_LEN_TO_CAPTURE",
    ),
    "adapters have the model's own vocabulary, data type and sharding": (
        "LORA_EXTRA_VOCAB_SIZE",
        "LORA_DTYPE",
        "LONG_LORA_SCALING_FACTORS",
        "FULLY_SHARDED_LORAS",
    ),
    "SGLang's speculative decoding has other switches (ENGINE_ARGS)": (
        "SPECULATIVE_DRAFT_TENSOR_PARALLEL_SIZE",
        "SPECULATIVE_MAX_MODEL_LEN",
        "SPECULATIVE_DISABLE_BY_BATCH_SIZE",
        "NGRAM_PROMPT_LOOKUP_MAX",
        "NGRAM_PROMPT_LOOKUP_MIN",
        "SPEC_DECODING_ACCEPTANCE_METHOD",
        "TYPICAL_ACCEPTANCE_SAMPLER_POSTERIOR_THRESHOLD",
        "TYPICAL_ACCEPTANCE_SAMPLER_POSTERIOR_ALPHA",
    ),
    "tools that a request brings are always offered to the model": ("ENABLE_AUTO_TOOL_CHOICE",),
    "a line for each request is always logged, its content at LOG_LEVEL=debug only": (
        "DISABLE_LOG_REQUESTS",
        "ENABLE_LOG_REQUESTS",
        "DISABLE_LOGGING_REQUEST",
    ),
    "ENABLE_METRICS switches the statistics": ("DISABLE_LOG_STATS",),
}
GONE: dict[str, str] = {name: why for why, names in _GONE_BECAUSE.items() for name in names}
"""Variables that have no effect here -> why. Setting one logs a warning at the start."""

_NOTHING = {"", "0", "0.0", "false", "none", "auto"}
"""Values that ask for nothing: the forms of hosting platforms send every variable."""


def warn_of_gone(environment: Mapping[str, Any]) -> Iterator[str]:
    """One line for each reason."""
    names_by_reason: dict[str, list[str]] = {}
    for name, why in GONE.items():
        if str(environment.get(name) or "").lower() not in _NOTHING:
            names_by_reason.setdefault(why, []).append(name)
    for why, names in names_by_reason.items():
        yield f"{', '.join(names)}: no effect ({why})"


# -- the command line of a replaced server -----------------------------------------------------

_LAUNCHERS = ("sglang.launch_server", "sglang::launch_server")
_LAUNCH_NAMES = {
    "model": "model-path",
    "tp": "tp-size",
    "pp": "pp-size",
    "dp": "dp-size",
    "enable-ep-moe": "enable-expert-parallel",
    "max-total-tokens": "kv-pool-tokens",  # here that name bounds one request
}
_NOT_OURS = {"host", "port"}
"""Ignored: the replaced server may have listened inside a container; HOST and PORT apply here."""


def launch_options(command: str, origin: str) -> dict[str, Any]:
    """`... sglang.launch_server --tp 2 --trust-remote-code` -> {"tp-size": "2", ...}; flags are
    "true".

    Raises ConfigError if it starts anything else.
    """
    try:
        words = shlex.split(command.replace("\\\n", " "))
    except ValueError as error:
        raise ConfigError(f"{origin}: {error}") from None
    flags: list[tuple[str, list[str]]] = []
    for word in _after_the_launcher(words, origin):
        if word.startswith("--"):
            flag, has_value, text = word[2:].partition("=")
            name = flag.replace("_", "-")
            flags.append((_LAUNCH_NAMES.get(name, name), [text] if has_value else []))
        elif not flags:
            raise ConfigError(f"{origin}: {word!r} is no option of sglang.launch_server")
        else:
            flags[-1][1].append(word)
    options: dict[str, Any] = {}
    for name, values in flags:
        value: Any = values if len(values) > 1 else values[0] if values else "true"
        if options.setdefault(name, value) != value:
            raise ConfigError(f"{origin} has --{name} twice with different values; keep one")
    return {name: value for name, value in options.items() if name not in _NOT_OURS}


def _after_the_launcher(words: list[str], origin: str) -> list[str]:
    """Of `python3 -u -m sglang.launch_server ...`, `sglang serve ...` or options alone: the
    options."""
    for no, word in enumerate(words):
        if word in _LAUNCHERS or words[no : no + 2] == ["sglang", "serve"]:
            return words[no + (1 if word in _LAUNCHERS else 2) :]
    if words and not words[0].startswith("--"):
        raise ConfigError(f"{origin}: only an sglang.launch_server can be taken over")
    return words


# -- values that are called otherwise today ----------------------------------------------------

Values: TypeAlias = Mapping[str, Any]
"""Field -> the setting's value."""
Origins: TypeAlias = Mapping[str, str]
Translation: TypeAlias = tuple[dict[str, Any], str]
"""Fields to change, and the warning; without text there is none."""
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


def _drafts(values: Values, origins: Origins) -> Translation | None:
    model, tokens = values["speculative_model"], values["num_speculative_tokens"]
    if model is None:
        return None
    if model.strip("[]").lower() == "ngram":
        return {"speculative_model": None, "speculative_algorithm": "NGRAM"}, ""
    change: dict[str, Any] = {
        "speculative_algorithm": values["speculative_algorithm"] or "STANDALONE"
    }
    has_sglangs = values["speculative_num_steps"] or values["speculative_eagle_topk"]
    if tokens is None or has_sglangs or "DRAFT_TOKENS" in origins["num_speculative_tokens"].upper():
        return change, ""
    # SGLang wants all three or none; vLLM's count is the steps, SGLang's has the root in it.
    change |= {
        "speculative_num_steps": tokens,
        "speculative_eagle_topk": 1,
        "num_speculative_tokens": tokens + 1,
    }
    return change, (
        f"{origins['num_speculative_tokens']}={tokens} is taken as SPECULATIVE_NUM_STEPS={tokens} "
        f"SPECULATIVE_EAGLE_TOPK=1 SPECULATIVE_NUM_DRAFT_TOKENS={tokens + 1}"
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
    _drafts,
)
