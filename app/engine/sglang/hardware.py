"""Options that follow from the machine's GPUs and the model's config, unless the operator set them.

TP_SIZE=auto      the largest number of visible GPUs that divides the model's heads
gpt-oss           its parsers; all GPUs for 120b, one for 20b; a share of the memory by GPU
"""

from __future__ import annotations

from typing import Any

from app.errors import ConfigError
from app.logs.setup import log

_GPT_OSS_LARGE_LAYERS = 36
_ROOMY = ("H100", "H200", "H20", "GH200", "B200", "B300", "GB200", "GB300")
"""GPUs on which 0.92 of the memory leaves enough for activations; 0.90 does on the others."""


def complete(options: dict[str, Any], *, tp_size: Any, expert_parallel: bool) -> None:
    """Add to SGLang's options what is not set in them.

    `tp_size`: TP_SIZE: None, "auto" or a number. Raises ConfigError if it is "auto" and the model's
    config cannot be read.
    """
    tp_size = options.get("tp_size", tp_size)
    config = config_of(options) if tp_size == "auto" or _named_gpt_oss(options) else None
    if config is not None and config.get("model_type") == "gpt_oss":
        tp_size = _complete_gpt_oss(options, config, tp_size)
    if tp_size == "auto":
        tp_size = _auto(options, config)
    if tp_size is not None:
        options["tp_size"] = tp_size
        if expert_parallel:
            options["ep_size"] = tp_size


def tensor_parallel(gpus: int, heads: int, kv_heads: int) -> int:
    """The largest size up to `gpus` that splits the heads evenly; KV heads are split or shared."""
    fits = [
        size
        for size in range(1, max(gpus, 1) + 1)
        if heads % size == 0 and (kv_heads % size == 0 or size % kv_heads == 0)
    ]
    return fits[-1]


def _complete_gpt_oss(options: dict[str, Any], config: dict[str, Any], tp_size: Any) -> Any:
    for parser in ("tool_call_parser", "reasoning_parser"):
        if options.get(parser) == "auto":
            options[parser] = "gpt-oss"
    name = _gpu_name()
    if name is not None and "mem_fraction_static" not in options:
        options["mem_fraction_static"] = 0.92 if any(each in name for each in _ROOMY) else 0.90
        log.info("gpt-oss", gpu=name, mem_fraction_static=options["mem_fraction_static"])
    large = config.get("num_hidden_layers", 0) >= _GPT_OSS_LARGE_LAYERS
    return "auto" if tp_size is None and large else tp_size


def _auto(options: dict[str, Any], config: dict[str, Any] | None) -> int:
    assert config is not None
    gpus = gpu_count() * int(options.get("nnodes", 1)) // int(options.get("pp_size", 1))
    if not options.get("enable_dp_attention"):  # replicas have GPUs of their own
        gpus //= int(options.get("dp_size", 1))
    text = config.get("text_config") or config
    heads = text.get("num_attention_heads")
    if not heads:
        raise ConfigError("TP_SIZE=auto: the model's config names no attention heads; set TP_SIZE")
    size = tensor_parallel(gpus, heads, text.get("num_key_value_heads") or heads)
    log.info("TP_SIZE=auto", gpus=gpus, heads=heads, tp_size=size)
    if size < gpus:
        log.warning(f"{gpus - size} of {gpus} GPUs stay unused: the model has {heads} heads")
    return size


def config_of(options: dict[str, Any]) -> dict[str, Any]:
    """config.json as it is, without running the model's own code."""
    import transformers

    try:
        config, _ = transformers.PretrainedConfig.get_config_dict(
            options["model_path"], revision=options.get("revision")
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:300]
        raise ConfigError(f"MODEL_PATH: its config cannot be read: {reason}") from None
    if not config:
        raise ConfigError(f"MODEL_PATH: there is no config.json in {options['model_path']}")
    return dict(config)


def _named_gpt_oss(options: dict[str, Any]) -> bool:
    return "gpt-oss" in str(options["model_path"]).lower()


def gpu_count() -> int:
    """Visible GPUs, by NVML: this process does not initialise CUDA."""
    import torch

    return int(torch.cuda.device_count())


def _gpu_name() -> str | None:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        name = pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
    return name if isinstance(name, str) else name.decode()
