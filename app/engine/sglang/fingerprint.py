"""OpenAI's `system_fingerprint`: if it changes, the same request may be answered otherwise.

Servers of the same release with the same model, options and kind of device have the same one.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from app.version import version

_DECISIVE = (
    "dtype", "kv_cache_dtype", "quantization", "load_format", "revision", "context_length",
    "tp_size", "dp_size", "pp_size", "ep_size", "attention_backend", "decode_attention_backend",
    "prefill_attention_backend", "sampling_backend", "moe_runner_backend", "chunked_prefill_size",
    "enable_deterministic_inference", "enable_torch_compile", "disable_radix_cache",
    "disable_cuda_graph", "speculative_algorithm", "speculative_draft_model_path",
    "speculative_num_steps", "speculative_eagle_topk", "speculative_num_draft_tokens",
    "json_model_override_args", "chat_template", "tokenizer_path", "tool_call_parser",
    "reasoning_parser", "sampling_defaults", "preferred_sampling_params", "model_impl",
    "tokenizer_mode", "enable_fp32_lm_head", "enable_watermark", "hf_chat_template_name",
    "default_chat_template_kwargs", "speculative_accept_threshold_single",
    "speculative_accept_threshold_acc",
)  # fmt: skip
"""Options of SGLang on which an answer depends."""
_SMALL = {".json", ".jinja", ".txt", ".model", ".tiktoken", ".py"}
_WEIGHTS = {".safetensors", ".bin", ".pt", ".gguf"}
_READ_BYTES = 64 * 1024
"""Of a file of weights, at its beginning and its end: the rest is gigabytes."""


def fingerprint(resolved: Mapping[str, Any], *, release: str, device: str) -> str:
    """`resolved`: SGLang's options, resolved. `release`: of this program, SGLang and PyTorch.
    `device`: its name.

    Reads some kilobytes of each file of the model.
    """
    options = {name: str(resolved.get(name)) for name in _DECISIVE}
    for name in ("tokenizer_path", "speculative_draft_model_path"):
        if resolved.get(name) == resolved["model_path"]:
            options[name] = ""  # wherever it lies
    if (template := options["chat_template"]) != "None":
        options["chat_template"] = _digest_of(Path(template))
    if options["tokenizer_path"] and Path(options["tokenizer_path"]).is_dir():
        options["tokenizer_path"] = _digest_of(Path(options["tokenizer_path"]))
    folder = _folder_of(resolved["model_path"], resolved.get("revision"))
    decisive = [release, device, platform.machine(), options, _digest_of(folder)]
    return "fp_" + hashlib.sha256(orjson.dumps(decisive)).hexdigest()[:12]


def fingerprint_of(resolved: Mapping[str, Any]) -> str:
    """Of this process's server. Not for the event loop: the disk may be slow."""
    import torch

    release = f"{version()} {torch.__version__}"
    return fingerprint(resolved, release=release, device=device_name(resolved["device"]))


def device_name(device: str) -> str:
    """Of the accelerator, such as `NVIDIA H100 80GB HBM3`; on a CPU the instructions it has."""
    import torch

    if device == "cuda":
        return str(torch.cuda.get_device_name())
    return f"{device} {torch.backends.cpu.get_cpu_capability()}"


def _folder_of(model: str, revision: str | None) -> Path:
    """The model's files, in the cache if it is named as on the hub."""
    if Path(model).exists():
        return Path(model)
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(model, "config.json", revision=revision)
    return Path(config).parent if isinstance(config, str) else Path(model)


def _digest_of(path: Path) -> str:
    """Of a file, of the files in a folder, or of a name in the place of one."""
    digest = hashlib.sha256()
    every = [path] if path.is_file() else sorted(path.glob("*")) if path.is_dir() else []
    files = [file for file in every if file == path or file.suffix in _SMALL | _WEIGHTS]
    for file in files:
        digest.update(file.name.encode() + b"\0")
        with suppress(OSError):  # SGLang may not need it
            if file.suffix in _SMALL or path == file:
                digest.update(file.read_bytes())
            elif file.suffix in _WEIGHTS:
                size = file.stat().st_size
                digest.update(f"{size}".encode())
                with file.open("rb") as weights:
                    digest.update(weights.read(_READ_BYTES))
                    weights.seek(max(0, size - _READ_BYTES))
                    digest.update(weights.read(_READ_BYTES))
    return digest.hexdigest() if files else str(path)
