"""Token ids become the text that SGLang's own detokenizer makes of them, at every step."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.full


def test_the_servers_texts_are_sglangs_over_tokenizers_of_many_families() -> None:
    check = Path(__file__).with_name("texts_check.py")
    done = subprocess.run(
        [sys.executable, str(check), "200"],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert len(done.stdout.strip().splitlines()) >= 10
