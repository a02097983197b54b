"""A signal at any moment in which the engine's processes are spawned leaves none of them behind.

CHAOS=1 START_ROUNDS=30 python -m pytest tests/chaos/test_starts.py -rP     half a minute for each
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.live.conftest import LiveServer
from tests.support.machine import allowed

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif("CHAOS" not in os.environ, reason="half a minute for each: CHAOS=1"),
]
ROUNDS = int(os.environ.get("START_ROUNDS", "30"))
EVERY_S = 0.15
SHARED_MEMORY = Path("/dev/shm")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("round_", range(ROUNDS))
def test_nothing_is_left_by_a_signal_while_the_engine_is_spawned(
    start: Callable[..., LiveServer], tmp_path: Path, round_: int, number: signal.Signals
) -> None:
    files = tmp_path / "files"
    files.mkdir()
    before = set(SHARED_MEMORY.glob("sglang_loads_*"))
    server = start(TMPDIR=str(files))
    while '"phase":"loading"' not in server.log.replace(" ", ""):
        assert server.process.poll() is None
        time.sleep(0.01)
    time.sleep(round_ * EVERY_S)
    server.process.send_signal(number)
    code = server.exit_code(within_s=10)
    deadline = time.monotonic() + allowed(2)
    while left := _processes_of(files):
        assert time.monotonic() < deadline, left
    assert code == (0 if number is signal.SIGTERM else -signal.SIGKILL)
    if number is signal.SIGTERM:
        assert not list(files.glob("serve-*"))
        assert set(SHARED_MEMORY.glob("sglang_loads_*")) <= before


def _processes_of(files: Path) -> list[psutil.Process]:
    """By their environment: a process whose parent has ended is no child of the server."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
            if str(files).encode() in environment:
                found.append(psutil.Process(int(folder.name)))
        except (OSError, psutil.Error):
            continue
    return found
