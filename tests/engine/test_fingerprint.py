"""`system_fingerprint`: the same as long as answers are, another when they may not be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from app.engine.sglang.fingerprint import fingerprint


def model(folder: Path, **files: bytes) -> Path:
    folder.mkdir()
    for name, content in {
        "config.json": b"{}",
        "model.safetensors": bytes(300_000),
        **files,
    }.items():
        (folder / name).write_bytes(content)
    return folder


def of(folder: Path, device: str = "cpu", release: str = "1", **options: Any) -> str:
    return fingerprint({"model_path": str(folder), **options}, release=release, device=device)


def test_copies_of_a_model_with_the_same_options_have_the_same_fingerprint(tmp_path: Path) -> None:
    one, other = model(tmp_path / "one"), model(tmp_path / "other")
    os.utime(other / "config.json", (0, 0))
    assert of(one, port=1) == of(other, port=2)
    assert of(one).startswith("fp_")


@pytest.mark.parametrize(
    "changed",
    [
        {"config.json": b'{"a": 1}'},
        {"chat_template.jinja": b"x"},
        {"model.safetensors": bytes(300_001)},
        {"model.safetensors": b"x" + bytes(299_999)},
        {"model.safetensors": bytes(299_999) + b"x"},
    ],
)
def test_other_files_have_another(tmp_path: Path, changed: dict[str, bytes]) -> None:
    assert of(model(tmp_path / "one")) != of(model(tmp_path / "other", **changed))


def test_another_release_device_or_option_has_another(tmp_path: Path) -> None:
    folder = model(tmp_path / "one")
    prints = {
        of(folder), of(folder, device="H100"), of(folder, release="2"), of(folder, dtype="half"),
        of(folder, tp_size=2),
    }  # fmt: skip
    assert len(prints) == 5


def test_a_file_that_cannot_be_read_does_not_fail_the_start(tmp_path: Path) -> None:
    folder = model(tmp_path / "one")
    whole = of(folder)
    (folder / "gone.json").symlink_to(folder / "nowhere")
    (folder / "folder.json").mkdir()
    assert of(folder) not in ("", whole)
