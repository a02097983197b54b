"""What this process needs before SGLang is imported, and the imports that must not come later.

SGLang reads some switches only from `os.environ`, partly at import; engine/environment.py writes
those that do not depend on the device.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from app.engine.sglang.lean import import_less
from app.errors import ConfigError

OWN_MODELS = "app.engine.sglang.models"
USES_CPU = "SGLANG_USE_CPU_ENGINE"
ARCHITECTURE = "SERVE_MODEL_ARCHITECTURE"
"""Variable that tells the schedulers which model they load (models/served.py)."""
SENDS_IDS = "SERVE_SENDS_IDS"
"""Variable that tells the schedulers to send ids to the server (scheduler.py)."""
_DEV = Path("/dev")
_ACCELERATORS = ("nvidia[0-9]*", "dxg", "kfd", "dri/renderD*", "davinci[0-9]*", "accel*")
"""Device files of NVIDIA, the same in WSL, AMD, Intel, Ascend, TPUs and Gaudi."""
_STAND_IN = Path(__file__).parent / "cpu"


def will_use_cpu(device: str | None) -> bool:
    """What `prepare_import` will find, without PyTorch, as far as the machine's files tell."""
    if device is not None:
        return device == "cpu"
    return not any(any(_DEV.glob(pattern)) for pattern in _ACCELERATORS)


def prepare_import(device: str | None) -> bool:
    """Make this process ready to import SGLang. `device`: DEVICE.
    True: the engine runs on the CPU.

    Raises ConfigError if the device is missing.
    """
    import torch

    on_cpu = _choose_cpu(device, torch)
    if on_cpu:
        use_cpu()
    import_less(on_cpu=on_cpu)
    return on_cpu


def go_offline() -> None:
    """Have the libraries of the hub ask it nothing: all that is loaded is on this machine."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ.setdefault(name, "1")


def _choose_cpu(device: str | None, torch: Any) -> bool:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if device == "cpu":
        return True
    if device is None:
        return accelerator is None
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("DEVICE=cuda, but no usable CUDA GPU was found")
    return False


def use_cpu() -> None:
    """Make SGLang run without a GPU, in this process and in the engine's.

    The CUDA build of `sgl_kernel` cannot be loaded without libcuda, and SGLang's CPU path imports
    names from it. If no real one can be imported, ours stands in (`cpu/sgl_kernel`).
    """
    os.environ[USES_CPU] = "1"
    # CUDA builds of torch bring NCCL; SGLang would use it between processes on CPUs, too.
    os.environ["SGLANG_NCCL_SO_PATH"] = "none"
    try:
        import sgl_kernel  # noqa: F401
    except (ImportError, OSError):
        for name in [name for name in sys.modules if name.split(".")[0] == "sgl_kernel"]:
            del sys.modules[name]
        sys.path.insert(0, str(_STAND_IN))
        path = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = f"{_STAND_IN}{os.pathsep}{path}" if path else str(_STAND_IN)


def use_own_models(path: str | None = None) -> None:
    """Make SGLang prefer our model classes to its own of the same name.

    Ours pool as an embedding model's files ask; SGLang's always pool the same way. `path`: the
    model's, so that a scheduler imports its class alone.
    """
    os.environ["SGLANG_EXTERNAL_MODEL_PACKAGE"] = OWN_MODELS
    if path is not None and (architecture := architecture_of(path)) is not None:
        os.environ[ARCHITECTURE] = architecture


def served_architecture() -> str | None:
    """In a scheduler: of the model that it loads."""
    return os.environ.get(ARCHITECTURE)


def architecture_of(path: str) -> str | None:
    """As the model's config.json has it; None if that is not on this machine."""
    try:
        config = json.loads((Path(path) / "config.json").read_text())
        (architecture,) = config["architectures"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return architecture if isinstance(architecture, str) else None


def have_ids_sent() -> None:
    """Have the schedulers send ids to the server."""
    os.environ[SENDS_IDS] = "1"


def ids_are_sent() -> bool:
    """In this process, and in the schedulers that it starts."""
    return SENDS_IDS in os.environ


def follow() -> None:
    """Have SGLang return once this node's part is loaded, instead of waiting for its end."""
    os.environ["SGLANG_BLOCK_NONZERO_RANK_CHILDREN"] = "0"


def import_for_requests() -> None:
    """Import what the first request needs, which would otherwise block the event loop."""
    for name in ("entrypoints.openai.serving_chat", "managers.io_struct"):
        importlib.import_module(f"sglang.srt.{name}")
