"""Files of adapters: what is right, and each thing that is wrong with a name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adapters.files import CONFIG, WEIGHTS, read_adapter
from app.errors import AdapterRefused
from tests.support.adapters import MODULE, write_adapter

Q = MODULE.format(layer=0, module="self_attn.q_proj")


def test_a_right_one_is_told_by_rank_and_modules(tmp_path: Path) -> None:
    files = read_adapter(write_adapter(tmp_path, rank=4))
    assert (files.rank, files.modules) == (4, ("q_proj", "v_proj"))
    assert files.config == {
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ("q_proj", "v_proj"),
    }  # fmt: skip


def test_the_scaling_by_the_root_of_the_rank_is_what_the_engine_is_told(tmp_path: Path) -> None:
    files = read_adapter(write_adapter(tmp_path, rank=4, lora_alpha=8, use_rslora=True))
    assert files.config["lora_alpha"] / files.rank == 8 / math.sqrt(4)


def test_modules_are_those_of_the_weights_whatever_the_configuration_calls_them(
    tmp_path: Path,
) -> None:
    files = read_adapter(write_adapter(tmp_path, target_modules=r".*\.(q|v)_proj"))
    assert files.config["target_modules"] == ("q_proj", "v_proj")


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"peft_type": "LOHA"}, "peft_type must be LORA"),
        ({"peft_type": None}, "peft_type must be LORA"),
        ({"r": 0}, "r, the rank"),
        ({"r": True}, "r, the rank"),
        ({"r": "4"}, "r, the rank"),
        ({"r": 8}, "are not of the rank 8"),
        ({"lora_alpha": None}, "lora_alpha must be a number"),
        ({"lora_alpha": True}, "lora_alpha must be a number"),
        ({"use_dora": True}, "use_dora is not served: DoRA"),
        ({"bias": "all"}, "bias is not served"),
        ({"lora_bias": True}, "lora_bias is not served"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is not served"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern is not served"),
        ({"alpha_pattern": {"q_proj": 8}}, "alpha_pattern is not served"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is not served"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens is not served"),
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights 'pissa_niter_16'"),
        ({"init_lora_weights": "olora"}, "changes the model's own weights"),
        ({"use_bdlora": {}, "kasa_config": {"x": 1}}, "kasa_config is not served"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_the_engine_would_ignore_is_refused_by_its_field(
    tmp_path: Path, config: dict[str, Any], why: str
) -> None:
    write_adapter(tmp_path, **config)
    with pytest.raises(AdapterRefused, match=why):
        read_adapter(tmp_path)


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({f"{Q}.lora_A.weight": [4, 8]}, "has no lora_B"),
        ({f"{Q}.lora_B.weight": [8, 4]}, "has no lora_A"),
        ({f"{Q}.lora_A.weight": [4, 8], f"{Q}.lora_B.weight": [8, 3]}, "not of the rank 4"),
        ({f"{Q}.lora_A.weight": [3, 8], f"{Q}.lora_B.weight": [8, 4]}, "not of the rank 4"),
        ({f"{Q}.lora_A.weight": [32]}, "two dimensions"),
        ({f"{Q}.weight": [8, 8]}, "is not a matrix of LoRA"),
        ({"base_model.model.lm_head.lora_embedding_A": [4, 8]}, "is not a matrix of LoRA"),
        ({}, "has no matrix of LoRA"),
        (
            {
                "visual.blocks.0.qkv.lora_A.weight": [4, 8],
                "visual.blocks.0.qkv.lora_B.weight": [8, 4],
            },
            "is not a matrix of LoRA, of a layer",
        ),
        (
            {
                f"{tower}.layers.0.{half}.weight": shape
                for tower in ("vision", "language")
                for half, shape in (("q.lora_A", [4, 8]), ("q.lora_B", [8, 4]))
            },
            "more than one part of a model",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_matrices_are_refused_by_their_names(
    tmp_path: Path, tensors: dict[str, list[int]], why: str
) -> None:
    write_adapter(tmp_path, tensors=tensors)
    with pytest.raises(AdapterRefused, match=why):
        read_adapter(tmp_path)


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(AdapterRefused, match=CONFIG):
        read_adapter(tmp_path)
    write_adapter(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(AdapterRefused, match=f"{WEIGHTS} is not there.$"):
        read_adapter(tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(AdapterRefused, match="it may run code"):
        read_adapter(tmp_path)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b" " * (2**20 + 1)])
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, text: bytes) -> None:
    write_adapter(tmp_path)
    (tmp_path / CONFIG).write_bytes(text)
    with pytest.raises(AdapterRefused, match=CONFIG):
        read_adapter(tmp_path)


@given(kept=st.integers(0, 3000))
def test_a_file_that_was_cut_off_anywhere_is_refused(tmp_path_factory: Any, kept: int) -> None:
    folder = write_adapter(tmp_path_factory.mktemp("cut"), layers=[0])
    whole = (folder / WEIGHTS).read_bytes()
    if kept >= len(whole):
        return
    (folder / WEIGHTS).write_bytes(whole[:kept])
    with pytest.raises(AdapterRefused, match=WEIGHTS):
        read_adapter(folder)


@given(
    name=st.sampled_from(["dtype", "shape", "data_offsets"]),
    value=st.one_of(
        st.none(), st.integers(), st.text(max_size=4), st.lists(st.integers(), max_size=3)
    ),
)
def test_a_header_that_lies_is_refused_and_nothing_else(
    tmp_path_factory: Any, name: str, value: object
) -> None:
    folder = write_adapter(tmp_path_factory.mktemp("lie"), layers=[0])
    raw = (folder / WEIGHTS).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    if header[f"{Q}.lora_A.weight"][name] == value:
        return
    header[f"{Q}.lora_A.weight"][name] = value
    text = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])
    with pytest.raises(AdapterRefused, match=WEIGHTS):
        read_adapter(folder)
