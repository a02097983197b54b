"""LoRA adapters as PEFT writes them, of random numbers."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

MODULE = "base_model.model.model.layers.{layer}.{module}"
TINY = {"self_attn.q_proj": (8, 8), "self_attn.v_proj": (8, 4)}
"""Of no model: for an engine that plays a script."""


def write_adapter(
    folder: Path,
    shapes: Mapping[str, tuple[int, int]] = TINY,
    *,
    layers: Iterable[int] = range(2),
    rank: int = 4,
    scale: float = 0.05,
    seed: int = 0,
    tensors: Mapping[str, list[int]] | None = None,
    **config: Any,
) -> Path:
    """`shapes`: module -> width of its input and of its output. `tensors`: of these names and
    shapes instead. `config`: fields of its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    number = random.Random(seed).random
    if tensors is None:
        tensors = {}
        for layer in layers:
            for module, (wide_in, wide_out) in shapes.items():
                name = MODULE.format(layer=layer, module=module)
                tensors[f"{name}.lora_A.weight"] = [rank, wide_in]
                tensors[f"{name}.lora_B.weight"] = [wide_out, rank]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for name, shape in tensors.items():
        count = 1
        for side in shape:
            count *= side
        begin = len(data)
        width = scale * 12**0.5  # of an even distribution with this deviation
        data += struct.pack(f"<{count}f", *[(number() - 0.5) * width for _ in range(count)])
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(len(text).to_bytes(8, "little") + text + data)
    modules = sorted({module.rpartition(".")[2] for module in shapes})
    wanted = {
        "peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": modules,
    } | config  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(wanted))
    return folder
