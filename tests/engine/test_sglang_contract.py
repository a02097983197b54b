"""What engine/sglang/ relies on in SGLang, against the installed release.

In a process of its own: importing SGLang sets the process's event loop policy and much else.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.contract_check import moved

CHECK = Path(__file__).with_name("contract_check.py")


@pytest.mark.full
def test_sglang_is_as_the_adapter_expects_it() -> None:
    ran = subprocess.run(
        [sys.executable, str(CHECK)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr[-2000:]
    assert ran.stdout.strip().endswith("SGLang 0.5.23: kept")


def test_all_that_has_moved_is_told_and_not_what_follows_from_it() -> None:
    told = list(
        moved(
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
    assert [each.split("\n")[0] for each in told] == [
        "contract.py:1: ImportError: cannot import name 'nowhere' from 'json' "
        f"({__import__('json').__file__})",
        "contract.py:8: AssertionError: lost",
    ]
