"""A stand-in for SGLang's kernel package on machines without a GPU.

The published wheel of this name is built for CUDA and cannot be loaded without libcuda, yet SGLang
0.5.23 imports names from it on the CPU too. For dense Llama- and Qwen-shaped models none of them is
called, so every name is a function that says so when it is.

`app/engine/sglang/importing.py` puts it on the import path, only when the CPU is used and no real
`sgl_kernel` can be imported. Drop when SGLang's CPU path no longer imports `sgl_kernel`, or when a
CPU build of the kernels is on the package index.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

__version__ = "0.0.0"


def __getattr__(name: str) -> Callable[..., object]:
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*_: object, **__: object) -> object:
        raise NotImplementedError(
            f"sgl_kernel.{name} was called, but this machine has no GPU kernels: this model or "
            "option does not run on the CPU"
        )

    missing.__name__ = name
    return missing


# Looked up, and not called, where SGLang's processors of Qwen's pictures are imported.
for _name in (
    "fused_sigmoid_mul_cpu", "fused_qk_gemma_rmsnorm_cpu", "fused_qk_gemma_rmsnorm_with_gate_cpu",
    "fused_qkvzba_split_reshape_cat_contiguous_cpu", "fused_gdn_gating_cpu",
):  # fmt: skip
    setattr(torch.ops.sgl_kernel, _name, __getattr__(_name))
