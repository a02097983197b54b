"""Options that follow from GPUs and config. The GPUs are pretended, the configs are real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.engine.sglang import hardware
from app.errors import ConfigError

GPT_OSS = {
    "model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"], "num_attention_heads": 64,
    "num_key_value_heads": 8, "max_position_embeddings": 131072,
}  # fmt: skip


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    def pretend(gpus: int, name: str = "NVIDIA A100-SXM4-80GB") -> None:
        monkeypatch.setattr(hardware, "gpu_count", lambda: gpus)
        monkeypatch.setattr(hardware, "_gpu_name", lambda: name)

    return pretend


def model(folder: Path, name: str, **config: Any) -> dict[str, Any]:
    path = folder / name
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    return {"model_path": str(path), "tool_call_parser": "auto", "reasoning_parser": "auto"}


@pytest.mark.parametrize(
    ("gpus", "heads", "kv_heads", "size"),
    [
        (1, 64, 8, 1), (2, 64, 8, 2), (3, 64, 8, 2), (5, 64, 8, 4), (8, 64, 8, 8), (0, 64, 8, 1),
        (16, 64, 8, 16), (4, 9, 3, 3), (2, 9, 3, 1), (8, 28, 4, 4), (6, 40, 40, 5),
    ],
)  # fmt: skip
def test_the_model_is_split_over_as_many_gpus_as_its_heads_allow(
    gpus: int, heads: int, kv_heads: int, size: int
) -> None:
    assert hardware.tensor_parallel(gpus, heads, kv_heads) == size


@pytest.mark.full
@pytest.mark.full
@pytest.mark.parametrize(("gpus", "size"), [(1, 1), (2, 2), (3, 2), (8, 8)])
def test_gpt_oss_120b_takes_every_gpu_that_it_can(
    machine: Any, tmp_path: Path, gpus: int, size: int
) -> None:
    machine(gpus)
    options = model(tmp_path, "gpt-oss-120b", num_hidden_layers=36, **GPT_OSS)
    hardware.complete(options, tp_size=None, expert_parallel=False)
    assert options["tp_size"] == size
    assert options["tool_call_parser"] == options["reasoning_parser"] == "gpt-oss"
    assert options["mem_fraction_static"] == 0.90
    assert "context_length" not in options  # the config's own, 131072


@pytest.mark.full
def test_gpt_oss_20b_takes_one_gpu(machine: Any, tmp_path: Path) -> None:
    machine(4, "NVIDIA H100 80GB HBM3")
    options = model(tmp_path, "gpt-oss-20b", num_hidden_layers=24, **GPT_OSS)
    hardware.complete(options, tp_size=None, expert_parallel=False)
    assert "tp_size" not in options
    assert options["mem_fraction_static"] == 0.92


@pytest.mark.full
def test_the_operators_settings_win(machine: Any, tmp_path: Path) -> None:
    machine(8)
    options = model(tmp_path, "gpt-oss-120b", num_hidden_layers=36, **GPT_OSS)
    options |= {"tool_call_parser": "hermes", "mem_fraction_static": 0.8}
    hardware.complete(options, tp_size=4, expert_parallel=True)
    assert (options["tp_size"], options["ep_size"]) == (4, 4)
    assert (options["tool_call_parser"], options["mem_fraction_static"]) == ("hermes", 0.8)


@pytest.mark.full
def test_another_model_is_split_only_when_asked_for(machine: Any, tmp_path: Path) -> None:
    machine(4)
    llama = {"model_type": "llama", "num_attention_heads": 32, "num_key_value_heads": 8}
    options = model(tmp_path, "llama", **llama)
    hardware.complete(options, tp_size=None, expert_parallel=False)
    assert "tp_size" not in options
    hardware.complete(options, tp_size="auto", expert_parallel=False)
    assert options["tp_size"] == 4


@pytest.mark.full
def test_stages_share_the_gpus(machine: Any, tmp_path: Path) -> None:
    machine(8)
    options = model(tmp_path, "gpt-oss-120b", num_hidden_layers=36, **GPT_OSS) | {"pp_size": 2}
    hardware.complete(options, tp_size=None, expert_parallel=False)
    assert options["tp_size"] == 4


@pytest.mark.full
def test_a_config_that_cannot_be_read_is_a_clear_error(machine: Any, tmp_path: Path) -> None:
    machine(2)
    (tmp_path / "gpt-oss").mkdir()
    options = {"model_path": str(tmp_path / "gpt-oss")}
    with pytest.raises(ConfigError, match="MODEL_PATH: "):
        hardware.complete(options, tp_size=None, expert_parallel=False)


@pytest.mark.full
def test_replicas_share_the_gpus_unless_they_share_the_attention(
    machine: Any, tmp_path: Path
) -> None:
    machine(8)
    options = model(tmp_path, "gpt-oss-120b", num_hidden_layers=36, **GPT_OSS) | {"dp_size": 4}
    alone, together = dict(options), options | {"enable_dp_attention": True}
    for each in (alone, together):
        hardware.complete(each, tp_size="auto", expert_parallel=False)
    assert (alone["tp_size"], together["tp_size"]) == (2, 8)


@pytest.mark.full
def test_a_config_without_heads_is_a_clear_error(machine: Any, tmp_path: Path) -> None:
    machine(2)
    options = model(tmp_path, "mamba", model_type="mamba")
    with pytest.raises(ConfigError, match="names no attention heads"):
        hardware.complete(options, tp_size="auto", expert_parallel=False)
