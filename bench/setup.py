"""What the servers and the floor are started with: the same model, options and environment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.engine.sglang import importing
from app.settings.catalogue import DECLARATIONS
from app.settings.load import DEPLOYMENT_CONFIG

ROOT = Path(__file__).parents[1]
MODEL_NAME = "bench"
_KV_POOL_TOKENS = {"tiny": 131_072, "demo": 16_384}
_NOT_THE_ENGINE = {
    # How the serving processes read the engine's output, and how many of them there are.
    "incremental_streaming_output", "tokenizer_worker_num",
    "host", "port", "launch_command", "startup_time", "uptime_s", "internal_states", "frontend",
    "random_seed", "tokenizer_path", "served_model_name", "nccl_port", "warmups",
    "context_length", "max_req_input_len", "max_running_requests",  # each has its own
    # Another grammar library behind a backend of ours, and our own watchdog.
    "grammar_backend", "constrained_json_disable_any_whitespace", "watchdog_timeout",
}  # fmt: skip
_REDACTED = ("***", "<redacted>")


@dataclass(frozen=True)
class Subject:
    """What the servers are started with."""

    model: Path
    options: Mapping[str, Any]
    """SGLang's engine options, as `Engine(...)` takes them."""
    theirs: Sequence[str] = ()
    """Further arguments for launch_server alone."""
    ours: Mapping[str, str] = field(default_factory=dict)
    """Further settings of this server alone."""


def engine_options(model: str, *, metrics: bool) -> dict[str, Any]:
    """Return the options that app/engine/sglang/launch.py sets, and a KV cache for every load.

    Also prepares this process's environment, which the servers inherit.
    """
    import torch

    options: dict[str, Any] = {
        "max_total_tokens": _KV_POOL_TOKENS[model],
        "constrained_json_disable_any_whitespace": True,
        "enable_metrics": metrics,
        "tool_call_parser": "hermes",
    }
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "SGLANG_RETURN_ORIGINAL_LOGPROB": "1"}
    if model == "tiny":
        options["dtype"] = "float32"  # without AMX a quarter of bfloat16's cost
    if torch.accelerator.current_accelerator(check_available=True) is None:
        importing.use_cpu()
        options |= {"device": "cpu", "attention_backend": "torch_native", "sleep_on_idle": True}
        os.environ.setdefault("OMP_NUM_THREADS", str(_threads(model)))
    return options


def _threads(model: str) -> int:
    """OpenMP threads of the engine on a CPU.

    They spin while they wait for each other: if one shares its core with the load client, a step
    takes up to a hundred times as long. The tiny model's matrices are too small for two anyway.
    """
    return 1 if model == "tiny" else max(1, len(os.sched_getaffinity(0)) - 1)


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the engine options that both servers report with different values."""
    both = (one.keys() & other.keys()) - _NOT_THE_ENGINE
    pairs = {name: (one[name], other[name]) for name in sorted(both)}
    return [
        f"{name}: {first!r}, {second!r}"
        for name, (first, second) in pairs.items()
        if first != second and first not in _REDACTED and second not in _REDACTED
    ]


def shell_environment() -> dict[str, str]:
    """This process's environment without this server's settings: what a shell exports for one
    start must not change what is measured."""
    settings = {DEPLOYMENT_CONFIG, *(n for each in DECLARATIONS.values() for n in each.names)}
    return {name: value for name, value in os.environ.items() if name not in settings}


def as_flags(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            yield flag
        elif value is not False:
            yield from (flag, str(value))


def as_settings(options: Mapping[str, Any]) -> dict[str, str]:
    """The settings for those options that app/engine/sglang/launch.py does not set by itself."""
    names = {"max_total_tokens": "KV_POOL_TOKENS", "enable_metrics": "ENABLE_METRICS",
             "tool_call_parser": "TOOL_CALL_PARSER", "dtype": "DTYPE"}  # fmt: skip
    return {names[option]: str(options[option]) for option in options if option in names}
