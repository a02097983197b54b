from __future__ import annotations

import subprocess
import sys


def test_the_collector_no_longer_scans_what_was_loaded() -> None:
    script = """
import gc
loaded = [[] for _ in range(100_000)]
from app.life.heap import freeze_heap
freeze_heap()
print(gc.get_freeze_count() > len(loaded), gc.get_count()[0] < 100, gc.get_threshold()[0] > 700)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True", "True", "True"]
