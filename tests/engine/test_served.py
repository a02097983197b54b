"""A scheduler imports the model that it loads, and not all that SGLang has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.engine.sglang.importing import ARCHITECTURE, architecture_of

LOOK = """
from app.engine.sglang.importing import use_cpu, use_own_models
use_cpu(); use_own_models()
import sys
from sglang.srt.models.registry import ModelRegistry
found = ModelRegistry.resolve_model_cls(["{}"])[0]
imported = [name for name in sys.modules if name.startswith("sglang.srt.models.")]
print(found.__module__, len(imported))
"""


@pytest.mark.full
@pytest.mark.parametrize(
    ("architecture", "module"),
    [
        ("LlamaForCausalLM", "sglang.srt.models.llama"),
        ("MistralForCausalLM", "sglang.srt.models.mistral"),
        ("BertModel", "app.engine.sglang.models.bert"),
    ],
)
def test_the_models_own_class_is_imported_alone(architecture: str, module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOK.format(architecture)],
        env={**os.environ, ARCHITECTURE: architecture}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found, imported = done.stdout.split()[-2:]
    assert found == module
    assert int(imported) < 30


@pytest.mark.parametrize(
    ("config", "architecture"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM"),
        ({"architectures": ["One", "Two"]}, None),
        ({"architectures": [1]}, None),
        ({}, None),
        ([], None),
    ],
)
def test_the_architecture_is_that_of_the_config(
    tmp_path: Path, config: object, architecture: str | None
) -> None:
    assert architecture_of(str(tmp_path)) is None
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert architecture_of(str(tmp_path)) == architecture


SCRIPTED = """
from app.engine.sglang.importing import use_cpu, use_own_models
use_cpu(); use_own_models()
import app.engine.sglang.models.adapters
import torch

@torch.jit.script
def made(size: int):
    return torch.zeros(size) + torch.ones(size) + torch.full([size], 2.0) + torch.tensor(1.0)

assert made(2).tolist() == [4, 4]
assert torch.zeros(1, pin_memory=True).tolist() == [0]
print("made")
"""


@pytest.mark.full
def test_scripts_of_models_are_compiled_beside_memory_that_is_not_pinned(tmp_path: Path) -> None:
    program = tmp_path / "scripted.py"  # PyTorch reads its source
    program.write_text(SCRIPTED)
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", str(program)], capture_output=True, text=True,
        timeout=300, check=False, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert ran.stdout.strip().endswith("made"), ran.stderr[-2000:]
