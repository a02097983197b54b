"""The server does not start where its files, which are mapped into memory, have no room."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.serving import HANGS_S
from tests.support.small_disk import on_small_disk

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("disk", "environment", "reason"),
    [
        ("TMPDIR", {"ENGINE": "scripted"}, "TMPDIR: less than 8 MB can be written"),
        ("/dev/shm", {"MODEL_PATH": "model"}, "/dev/shm: less than 8 MB can be written"),
    ],
)
def test_a_disk_that_is_almost_full_is_a_wrong_setting(
    tmp_path: Path, disk: str, environment: dict[str, str], reason: str
) -> None:
    folder = tmp_path if disk == "TMPDIR" else Path(disk)
    ran = subprocess.run(
        on_small_disk(folder, 4, sys.executable, str(ROOT / "serve_hathora.py")),
        env={**os.environ, "TMPDIR": str(tmp_path), "LOG_FILE": "", "PORT": "0", **environment},
        capture_output=True, text=True, timeout=HANGS_S,
    )  # fmt: skip
    assert ran.returncode == 78, ran.stdout + ran.stderr
    assert ran.stderr == f"serve_hathora: {reason}: No space left on device\n"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_wrong_setting(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(ROOT / "serve_hathora.py")],
        env={**os.environ, "TMPDIR": str(tmp_path / "none"), "LOG_FILE": "", "ENGINE": "scripted"},
        capture_output=True, text=True, timeout=HANGS_S,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr.count("\n")) == (78, 1)
    assert ran.stderr.startswith("serve_hathora: TMPDIR: no folder can be made there: ")
