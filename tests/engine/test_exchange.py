"""The way to the engine's processes and back, with SGLang's real messages over real sockets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.full


def test_the_exchange_works_with_the_installed_sglang() -> None:
    check = Path(__file__).with_name("exchange_check.py")
    done = subprocess.run(
        [sys.executable, str(check)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert len(done.stdout.strip().splitlines()) >= 5
