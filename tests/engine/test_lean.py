"""What an engine on a CPU leaves out of its imports, and that nothing else changes."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from app.engine.sglang import importing
from app.engine.sglang.importing import will_use_cpu
from app.engine.sglang.lean import packages_distributions

LEAN = """
import sys
from app.engine.sglang import importing
assert importing.prepare_import("cpu")
import torch
import sglang.srt.managers.scheduler, sglang.srt.entrypoints.engine
from sglang.srt.entrypoints.openai import serving_chat
left_out = ("cutlass", "torch._inductor.compile_fx", "torchaudio", "scipy", "flashinfer")
there = [name for name in left_out if sys.modules.get(name) is not None]
assert not there, there

@torch.compile(backend="eager")
def doubled(value):
    "Twice the value."
    return 2 * value

assert "torch._inductor.compile_fx" not in sys.modules
from app.engine.sglang.lean import show_what_was_hidden
show_what_was_hidden()
import scipy
assert doubled(torch.ones(2)).tolist() == [2, 2]
assert (doubled.__name__, doubled.__doc__) == ("doubled", "Twice the value.")
assert isinstance(torch.compile(torch.nn.Linear(1, 1), backend="eager"), torch.nn.Module)
"""


@pytest.mark.full
def test_an_engine_on_a_cpu_imports_neither_a_gpus_kernels_nor_a_compiler() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAN], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_packages_are_named_as_the_standard_library_names_them() -> None:
    assert packages_distributions() == importlib.metadata.packages_distributions()


def test_a_machine_without_device_files_has_no_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importing, "_DEV", tmp_path)
    assert importing.will_use_cpu(None)
    for file in ("nvidiactl", "nvidia0"):
        (tmp_path / file).touch()
        assert importing.will_use_cpu(None) is (file == "nvidiactl")


def test_the_device_that_is_asked_for_is_the_one_that_is_imported_for() -> None:
    assert will_use_cpu("cpu")
    assert not will_use_cpu("cuda")
