"""A version says release, commit and SGLang's release."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from app import __version__
from app.version import _commit, version

ROOT = Path(__file__).parents[1]


def test_the_flag_prints_release_commit_and_sglang() -> None:
    done = subprocess.run(
        [sys.executable, "serve_hathora.py", "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(version())
    assert re.fullmatch(rf"{re.escape(__version__)} \(commit \w+, SGLang [\w.]+\)", str(version()))


def test_the_commit_is_that_of_the_checkout() -> None:
    git = ["git", "-c", "safe.directory=*", "rev-parse", "HEAD"]
    head = subprocess.run(git, cwd=ROOT, capture_output=True, text=True)
    if head.returncode:
        pytest.skip("not a git checkout")
    assert head.stdout.startswith(version().commit or "none")


@pytest.mark.parametrize("packed", [False, True])
def test_a_branch_is_followed_to_its_commit(tmp_path: Path, packed: bool) -> None:
    git = tmp_path / ".git"
    git.mkdir()
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    if packed:
        (git / "packed-refs").write_text("# pack-refs\n0123456789abcdef refs/heads/main\n")
    else:
        (git / "refs/heads").mkdir(parents=True)
        (git / "refs/heads/main").write_text("0123456789abcdef\n")
    assert _commit(tmp_path) == "0123456789ab"


def test_an_image_says_its_commit_in_a_file(tmp_path: Path) -> None:
    assert _commit(tmp_path) is None
    (tmp_path / "REVISION").write_text("fedcba9876543210\n")
    assert _commit(tmp_path) == "fedcba987654"
    (tmp_path / "REVISION").write_text("\n")
    assert _commit(tmp_path) is None
