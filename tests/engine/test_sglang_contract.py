"""What engine/sglang/ relies on in SGLang, against the installed release.

In a process of its own: importing SGLang sets the process's event loop policy and much else.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from app.engine.sglang import moved

ROOT = Path(__file__).parents[2]


@pytest.mark.full
def test_sglang_is_as_the_adapter_expects_it() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "app.engine.sglang.moved"],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr[-2000:]
    assert ran.stdout.strip().endswith(f"SGLang {moved.TRUSTED}: kept")


@pytest.mark.full
def test_the_release_that_is_pinned_is_the_one_that_is_trusted() -> None:
    assert moved.installed() == moved.TRUSTED
    assert f'"sglang=={moved.TRUSTED}"' in (ROOT / "pyproject.toml").read_text()
    assert moved.found_moved() is None


def test_all_that_has_moved_is_told_and_not_what_follows_from_it() -> None:
    told = list(
        moved.moved(
            "from json import dumps, nowhere\n"
            "import json\n"
            "assert nowhere(1)\n"
            "found = nowhere.something\n"
            "assert found == 1\n"
            "assert callable(json.dumps)\n"
            "for name in ('loads', 'lost'):\n"
            "    assert hasattr(json, name), name\n"
        )
    )
    assert [line for line, _ in told] == [
        "contract.py:1: ImportError: cannot import name 'nowhere' from 'json' "
        f"({__import__('json').__file__})",
        "contract.py:8: AssertionError: lost",
    ]


def test_a_release_that_cannot_be_tried_counts_as_one_that_has_moved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(moved, "installed", lambda: "9.9.9")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert moved.found_moved() == ["the contract could not be tried (exit 1)"]


def test_without_sglang_the_start_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> str:
        raise moved.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(moved.importlib.metadata, "version", none)
    with pytest.raises(moved.StartError, match=r"pip install -r requirements\.txt"):
        moved.installed()
