"""Settings -> the options of `sglang.Engine`, checked.

Written against sglang 0.5.23; `tests/engine/test_sglang_contract.py` fails first when it changes.
"""

from __future__ import annotations

import difflib
import importlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from app.engine.environment import RuntimeDir
from app.engine.model_cache import called
from app.engine.sglang import hardware, parser_names, pictures, pooling
from app.engine.sglang.adapters import adapter_options
from app.engine.sglang.importing import OWN_MODELS
from app.engine.sglang.model_files import in_cache, tokenizer_at
from app.engine.sglang.pooling import Pooling
from app.errors import ConfigError
from app.logs.setup import log
from app.settings.catalogue import Settings

_CPU_KV_POOL_TOKENS = 65_536
"""SGLang would take most of the memory, and ten seconds to fill it with zeros."""

_NEVER_S = 7 * 86_400.0
"""For SGLang's watchdog, which ends a scheduler that was frozen in a step; ours leaves that out."""


def engine_options(
    settings: Settings, runtime: RuntimeDir, model_path: str, *, on_cpu: bool
) -> tuple[dict[str, Any], Pooling | None]:
    """The keyword arguments of `sglang.Engine`; how it pools, if it is an embedding model.

    Imports SGLang. May block on the hub for a tokenizer. Raises ConfigError.
    """
    from sglang.srt.server_args import ServerArgs

    options = defaults(settings, on_cpu) | settings.engine_options() | {"model_path": model_path}
    name = called(settings.model_path, model_path)
    if name != model_path:
        options.setdefault("served_model_name", name)  # in its metrics
    name_files(options, settings, runtime)
    look_into_cache(options, settings)
    hardware.complete(options, tp_size=settings.tp_size, expert_parallel=settings.expert_parallel)
    with suppress(ConfigError):  # it has no config.json, as a GGUF file: no pictures
        pictures.choose(options, hardware.config_of(options), settings)
    options |= adapter_options(settings, on_cpu=on_cpu) | settings.engine_args
    if on_cpu:
        choose_dtype(options)
        if options.pop("enable_memory_saver", False):
            log.warning("ENABLE_MEMORY_SAVER: on a CPU an engine that sleeps keeps its memory")
    elif options.get("enable_memory_saver"):
        options.setdefault("enable_weights_cpu_backup", True)  # what /wake_up brings back
    pools = _embedding(model_path, options, on_cpu)
    if pools is not None and settings.serves_adapters:
        raise ConfigError("ENABLE_LORA: an embedding model is served without adapters")
    if pools is not None and settings.tokenizer_workers > 1:
        raise ConfigError("TOKENIZER_WORKERS: an embedding model is served by one process")
    for option, sglang_name in (
        ("tool_call_parser", parser_names.tool_call_parser),
        ("reasoning_parser", parser_names.reasoning_parser),
    ):
        options[option] = sglang_name(options[option]) if options.get(option) else None
    check_known(options, ServerArgs)
    return options, pools


def name_files(options: dict[str, Any], settings: Settings, runtime: RuntimeDir) -> None:
    """Add the files of the operator's chat template and of another revision's tokenizer."""
    if settings.custom_chat_template:
        template = runtime.path / "chat-template.jinja"
        template.write_text(settings.custom_chat_template)
        options["chat_template"] = str(template)
    if settings.tokenizer_revision:
        options["tokenizer_path"] = tokenizer_at(settings.tokenizer_revision, settings, options)


_FROM_HUB = {
    "tokenizer_path": None,
    "speculative_draft_model_path": "speculative_draft_model_revision",
}
"""Options that may name something on the hub -> the option of its revision."""


def look_into_cache(options: dict[str, Any], settings: Settings) -> None:
    for option, revision in _FROM_HUB.items():
        if name := options.get(option):
            options[option] = in_cache(settings, option, name, options.get(revision or ""))


def sends_ids(settings: Settings) -> bool:
    """The server makes text of the model's tokens; no detokenizer of SGLang's runs."""
    options = settings.engine_options() | settings.engine_args
    needing = (  # what is told through it alone
        "enable_hierarchical_cache",
        "enable_lmcache",
        "disaggregation_mode",
    )
    return (
        not settings.detokenizer_process
        and settings.tokenizer_workers == 1
        and options.get("detokenizer_worker_num", 1) == 1
        and not any(options.get(name) for name in needing)
    )


def check_known(options: dict[str, Any], server_args: Any) -> None:
    """Refuse options and values that SGLang does not know, with the nearest name that it does.

    `server_args`: the class `ServerArgs`.
    """
    import msgspec

    fields = {field.name: field for field in msgspec.structs.fields(server_args)}
    for name, value in options.items():
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"ENGINE_ARGS: SGLang has no option {name!r}{hint}")
        for annotation in getattr(fields[name].type, "__metadata__", ()):
            choices = getattr(annotation, "choices", None)
            if not choices or value is None:
                continue
            values = value if isinstance(value, list | tuple) else [value]
            if wrong := [each for each in values if each not in choices]:
                listed = ", ".join(map(str, choices))
                raise ConfigError(f"{name.upper()}: SGLang takes one of {listed}; not {wrong[0]!r}")


def defaults(settings: Settings, on_cpu: bool) -> dict[str, Any]:
    options: dict[str, Any] = {
        "log_level": settings.log_level,
        "incremental_streaming_output": True,
        "enable_metrics": settings.enable_metrics,
        "grammar_backend": "llguidance",  # engine/sglang/grammar_backend.py in its place
    }
    if on_cpu:
        options |= {
            "device": "cpu",
            "attention_backend": "torch_native",
            "max_total_tokens": _CPU_KV_POOL_TOKENS,
            # An idle scheduler polls without a pause; on a GPU machine that costs a core of many,
            # here it would be one of those that compute.
            "sleep_on_idle": True,
        }
    elif settings.device is not None:
        options["device"] = settings.device
    if settings.engine_stall_timeout_s:
        options["watchdog_timeout"] = _NEVER_S
    return options


def choose_dtype(options: dict[str, Any]) -> None:
    """Compute in float32 on a CPU that has no instructions for bfloat16.

    There a product of matrices in bfloat16 takes 15 to 50 times as long (AVX2, PyTorch 2.14). A
    quantized model computes in the type that its weights were made for.
    """
    if options.get("dtype", "auto") != "auto" or "quantization" in options or _has_bfloat16():
        return
    config = Path(options["model_path"]) / "config.json"
    if config.is_file() and b"quantization_config" in config.read_bytes():
        return
    options["dtype"] = "float32"
    log.info("this CPU has no bfloat16: the model runs in float32", forbid="DTYPE=bfloat16")


def _has_bfloat16() -> bool:
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _embedding(model_path: str, options: dict[str, Any], on_cpu: bool) -> Pooling | None:
    """Add what an embedding model needs to `options`; None if the model is not one.

    Raises ConfigError if its vectors would differ from those of the model's own library.
    """
    folder = Path(model_path)
    if not folder.is_dir() or not pooling.is_embedding_model(folder):
        return None
    pools = pooling.check(folder)
    # Vectors over a part of the tokens, cached or in chunks, would be wrong for encoders.
    needed: dict[str, Any] = {
        "is_embedding": True,
        "disable_radix_cache": True,
        "chunked_prefill_size": -1,
    }
    if on_cpu:
        # Without chunks SGLang reserves more memory than such a machine has; half precision costs
        # time there instead of saving it.
        needed |= {
            "mem_fraction_static": options.get("mem_fraction_static", 0.4),
            "dtype": options.get("dtype", "float32"),
        }
    if pools.max_tokens is not None:
        # SGLang takes inputs that are shorter than its context.
        needed["context_length"] = min(
            options.get("context_length", pools.max_tokens + 1), pools.max_tokens + 1
        )
    options |= needed
    # If ours failed to import, SGLang would go on with its own after a warning.
    importlib.import_module(OWN_MODELS + ".bert")
    return pools
