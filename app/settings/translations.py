"""What the variables of other servers mean here: names that are gone, and their command lines.

Names that mean the same as here are further names of the settings themselves (catalogue.py), values
that have changed are in rules.py; docs/migrate.md has the whole list, per server.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from app.errors import ConfigError
from app.settings import vllm

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
GONE: dict[str, str] = {
    **{name: why for why, names in _GONE_BECAUSE.items() for name in names},
    **vllm.NO_EFFECT,
}
"""Variables that have no effect here -> why. Setting one logs a warning at the start."""

_NOTHING = {"", "0", "0.0", "false", "no", "off", "none", "auto", "{}", "[]"}
"""Values that ask for nothing: the forms of hosting platforms send every variable."""
_SERVICE_LINK = re.compile(r"_(SERVICE_HOST|SERVICE_PORT\w*|PORT_\d+_\w+)$")
"""What Kubernetes sets for a service called `vllm`; its VLLM_PORT begins with `tcp://`."""


def asks_for_nothing(name: str, value: Any) -> bool:
    text = str("" if value is None else value).strip().lower()
    return text in _NOTHING or text == vllm.HARMLESS.get(name)


def refuse_gone(environment: Mapping[str, Any]) -> None:
    """Raises ConfigError for a variable without which the server would be another."""
    for name, why in vllm.REFUSED.items():
        if not asks_for_nothing(name, environment.get(name)):
            raise ConfigError(f"{name} cannot be honoured: {why}; remove it")


def warn_of_gone(environment: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[str]:
    """One line for each reason. `known`: the names of all settings."""
    names_by_reason: dict[str, list[str]] = {}
    for name, why in GONE.items():
        if not asks_for_nothing(name, environment.get(name)) and not _is_service(name, environment):
            names_by_reason.setdefault(why, []).append(name)
    for name in sorted(environment):
        unknown = name.startswith("VLLM_") and name not in known and name not in GONE
        if unknown and not _SERVICE_LINK.search(name):
            names_by_reason.setdefault(vllm.OWN, []).append(name)
    for why, names in names_by_reason.items():
        yield f"{', '.join(names)}: no effect ({why})"


def _is_service(name: str, environment: Mapping[str, Any]) -> bool:
    return name == "VLLM_PORT" and str(environment[name]).startswith("tcp://")


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
