"""The files of a LoRA adapter as PEFT writes them, checked before the engine sees them.

    adapter_config.json          rank, scaling, which parts of the model it changes
    adapter_model.safetensors    for each of those two matrices, lora_A and lora_B

The engine finds a matrix of the wrong shape when a request first uses the adapter, and ends. What
it does not honour, it ignores: the answers would be others than the adapter's.

Source: peft 0.19 (`peft/tuners/lora/config.py`, `peft/utils/save_and_load.py`), the format of
safetensors 0.8.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import orjson

from app.errors import AdapterRefused

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

_MOST_CONFIG_BYTES = 2**20
_MOST_HEADER_BYTES = 25 * 2**20
_TYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_MATRIX = re.compile(
    r"(?P<module>(?P<before>.*?)\blayers\.[0-9]+\..+)\.(?P<kind>lora_A|lora_B)\.weight"
)
"""Of a layer: the engine leaves out what is in none."""
_SAME: tuple[Any, ...] = (None, False, {}, [], "none", "")
_NOT_SERVED = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "lora_bias": "a bias of its own",
    "bias": "trained biases",
    "modules_to_save": "modules that were trained as a whole",
    "rank_pattern": "other ranks for some modules",
    "alpha_pattern": "other scalings for some modules",
    "fan_in_fan_out": "transposed weights",
    "layer_replication": "replicated layers",
    "trainable_token_indices": "trained tokens",
    "target_parameters": "parameters that are no modules",
    "alora_invocation_tokens": "an invocation by tokens (aLoRA)",
    "use_bdlora": "matrices of blocks (BD-LoRA)",
    "arrow_config": "a router (Arrow)",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
    "kasa_config": "KaSA",
    "ensure_weight_tying": "tied weights",
}
"""Fields of its configuration whose effect the engine leaves out -> what they mean."""

_LEAVE_THE_MODEL = ("true", "false", "gaussian", "eva", "orthogonal")
"""Ways to begin a training that leave the model's own weights as they are."""


class AdapterFiles(msgspec.Struct, frozen=True, kw_only=True):
    """A checked adapter on this machine's disk."""

    folder: Path
    config: dict[str, Any]
    """As the engine must read it: what PEFT would compute, in the fields that the engine knows."""
    rank: int
    modules: tuple[str, ...]
    """Last parts of the names of the modules that it changes, such as `q_proj`."""


def read_adapter(folder: Path) -> AdapterFiles:
    """Check the adapter in `folder`. Blocks. Raises AdapterRefused."""
    config = _read_config(folder)
    rank = _rank(config)
    matrices = _matrices(_read_header(folder / WEIGHTS))
    for name, (a, b) in matrices.items():
        if a[0] != rank or b[1] != rank:
            raise AdapterRefused(
                f"{WEIGHTS}: the matrices of {name[:200]} have the shapes {a} and {b}, which are "
                f"not of the rank {rank}."
            )
    modules = tuple(sorted({name.rpartition(".")[2] for name in matrices}))
    return AdapterFiles(
        folder=folder,
        config={
            "peft_type": "LORA",
            "r": rank,
            "lora_alpha": _alpha(config, rank),
            "target_modules": modules,
        },
        rank=rank,
        modules=modules,
    )


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        with (folder / CONFIG).open("rb") as file:
            text = file.read(_MOST_CONFIG_BYTES + 1)
    except OSError as error:
        raise AdapterRefused(f"{CONFIG} cannot be read: {error.strerror}.") from None
    if len(text) > _MOST_CONFIG_BYTES:
        raise AdapterRefused(f"{CONFIG} is larger than {_MOST_CONFIG_BYTES} bytes.")
    try:
        config = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise AdapterRefused(f"{CONFIG} is not JSON: {error}.") from None
    if not isinstance(config, dict) or str(config.get("peft_type")).upper() != "LORA":
        raise AdapterRefused(f"{CONFIG}: peft_type must be LORA.")
    begun = config.get("init_lora_weights")
    if isinstance(begun, str) and begun.lower() not in _LEAVE_THE_MODEL:
        raise AdapterRefused(
            f"{CONFIG}: init_lora_weights {begun[:40]!r} is not served: it changes the model's own "
            "weights. Have PEFT save it for the unchanged model (path_initial_model_for_weight_"
            "conversion)."
        )
    for field, meaning in _NOT_SERVED.items():
        if not any(config.get(field) == same for same in _SAME):
            raise AdapterRefused(f"{CONFIG}: {field} is not served: {meaning}.")
    return config


def _rank(config: Mapping[str, Any]) -> int:
    rank = config.get("r")
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= 2**16:
        raise AdapterRefused(f"{CONFIG}: r, the rank, must be a whole number of at least 1.")
    return rank


def _alpha(config: Mapping[str, Any], rank: int) -> float:
    """What the engine divides by the rank, to scale the adapter."""
    alpha = config.get("lora_alpha")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
        raise AdapterRefused(f"{CONFIG}: lora_alpha must be a number.")
    return alpha * math.sqrt(rank) if config.get("use_rslora") else alpha


def _read_header(file: Path) -> dict[str, Any]:
    """What a file of safetensors says of its tensors: name -> dtype, shape, data_offsets."""
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if not 2 <= length <= min(_MOST_HEADER_BYTES, size - 8):
                raise AdapterRefused(f"{WEIGHTS} is not a whole file of safetensors.")
            header = orjson.loads(opened.read(length))
    except FileNotFoundError:
        other = " Convert adapter_model.bin: it may run code." if _has_pickle(file) else ""
        raise AdapterRefused(f"{WEIGHTS} is not there.{other}") from None
    except OSError as error:
        raise AdapterRefused(f"{WEIGHTS} cannot be read: {error.strerror}.") from None
    except orjson.JSONDecodeError:
        raise AdapterRefused(f"{WEIGHTS} is not a whole file of safetensors.") from None
    if not isinstance(header, dict):
        raise AdapterRefused(f"{WEIGHTS} is not a whole file of safetensors.")
    header.pop("__metadata__", None)
    for name, tensor in header.items():
        _check_place(name, tensor, size - 8 - length)
    return header


def _has_pickle(file: Path) -> bool:
    return file.with_name("adapter_model.bin").exists()


class _Tensor(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def _check_place(name: str, raw: Any, data_bytes: int) -> None:
    """Raises AdapterRefused if the tensor is not whole inside the file."""
    try:
        tensor = msgspec.convert(raw, _Tensor)
    except msgspec.ValidationError:
        raise AdapterRefused(f"{WEIGHTS}: {name[:200]} is not described as a tensor.") from None
    if tensor.dtype not in _TYPE_BYTES:
        known = ", ".join(_TYPE_BYTES)
        raise AdapterRefused(
            f"{WEIGHTS}: {name[:200]} is of the type {tensor.dtype[:20]}, not one of {known}."
        )
    begin, end = tensor.data_offsets
    wanted = math.prod(tensor.shape) * _TYPE_BYTES[tensor.dtype]
    if min(tensor.shape, default=1) < 1 or end - begin != wanted or not 0 <= begin <= end:
        raise AdapterRefused(f"{WEIGHTS}: the shape of {name[:200]} does not fit its place.")
    if end > data_bytes:
        raise AdapterRefused(f"{WEIGHTS} is not whole: {name[:200]} ends behind its end.")


def _matrices(header: Mapping[str, Any]) -> dict[str, tuple[list[int], list[int]]]:
    """Module -> the shapes of its two matrices, [rank, in] and [out, rank]."""
    halves: dict[str, dict[str, list[int]]] = {}
    towers: set[str] = set()
    for name, tensor in header.items():
        if (match := _MATRIX.fullmatch(name)) is None:
            raise AdapterRefused(f"{WEIGHTS}: {name[:200]} is not a matrix of LoRA, of a layer.")
        towers.add(match["before"])
        if len(tensor["shape"]) != 2:
            raise AdapterRefused(f"{WEIGHTS}: {name[:200]} must have two dimensions.")
        halves.setdefault(match["module"], {})[match["kind"]] = tensor["shape"]
    if len(towers) > 1:
        shown = ", ".join(sorted(towers))[:200]
        raise AdapterRefused(f"{WEIGHTS} has layers of more than one part of a model: {shown}.")
    if not halves:
        raise AdapterRefused(f"{WEIGHTS} has no matrix of LoRA.")
    for module, both in halves.items():
        if len(both) != 2:
            missing = "lora_B" if "lora_A" in both else "lora_A"
            raise AdapterRefused(f"{WEIGHTS}: {module[:200]} has no {missing}.")
    return {module: (both["lora_A"], both["lora_B"]) for module, both in halves.items()}
