"""A process that multiprocessing spawns ends with its parent, whenever that ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.processes import alive
from tests.support.serving import HANGS_S, eventually

ROOT = Path(__file__).parents[1]
PARENT = """
import multiprocessing, os, signal, time
if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    process.start()
    print(process.pid, flush=True)
    time.sleep(AFTER_S)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("after_s", [0.0, 0.2])
async def test_a_spawned_process_ends_with_its_parent(tmp_path: Path, after_s: float) -> None:
    branch = (ROOT / "serve_hathora.py").read_text().partition("elif ")[2]
    script = tmp_path / "parent.py"
    script.write_text(PARENT.replace("AFTER_S", str(after_s)) + "elif " + branch)
    parent = subprocess.run(
        [sys.executable, str(script)], env={"PYTHONPATH": str(ROOT)}, capture_output=True,
        timeout=HANGS_S,
    )  # fmt: skip
    child = int(parent.stdout)
    await eventually(lambda: not _runs(child))


def _runs(pid: int) -> bool:
    try:
        return alive(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False
