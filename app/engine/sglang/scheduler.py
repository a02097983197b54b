"""SGLang's engine on one machine: what its scheduler's processes do before SGLang's own code.

`Engine.run_scheduler_process_func` is SGLang's place for that (0.5.23, entrypoints/engine.py); it
starts replicas (DATA_PARALLEL_SIZE), too. The modules of SGLANG_EXTERNAL_MODEL_PACKAGE are imported
when the model is loaded, which is after torch.distributed is initialised.
"""

from __future__ import annotations

from typing import Any

from sglang.srt.entrypoints.engine import Engine
from sglang.srt.managers.scheduler import run_scheduler_process

from app.engine.sglang.loopback import keep_to_loopback


def run_on_loopback(*arguments: Any, **options: Any) -> None:
    """A scheduler's process, from start to end."""
    keep_to_loopback()
    run_scheduler_process(*arguments, **options)


class SingleMachineEngine(Engine):  # type: ignore[misc]
    """For NNODES=1."""

    run_scheduler_process_func = staticmethod(run_on_loopback)
