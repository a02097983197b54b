"""A reader of the log that stops, or a disk that is full, cannot stop the engine."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.conftest import LiveServer

pytestmark = pytest.mark.live

REQUESTS = 400
"""Two lines of ours and one of SGLang's each: several times what a pipe holds."""


@pytest.mark.rare
def test_a_log_reader_that_stops_does_not_stop_the_engine(start: Callable[..., LiveServer]) -> None:
    server = start(unread=True, LOG_LEVEL="info").ready()
    for no in range(REQUESTS):
        body = {"prompt": f"request {no}", "max_tokens": 2}
        assert server.http.post("/v1/completions", json=body, timeout=60).status_code == 200
    # Full: it holds 65,536, in pages, and what is written in one piece is not split between two.
    assert server.unread_bytes > 50_000
    server.process.terminate()
    assert server.exit_code(60) == 0


def test_every_file_that_the_servers_processes_write_by_mapping_it_has_its_blocks(
    live: LiveServer,
) -> None:
    live.http.post("/v1/completions", json={"prompt": "hello", "max_tokens": 2})
    mapped = {
        line.split()[-1]
        for pid in (live.process.pid, *live.engine_pids())
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines()
        if line.split()[1].endswith("s")  # shared
    }
    files = {path for path in mapped if "/serve-" in path or path.startswith("/dev/shm/")}
    assert {Path(path).name.partition("_")[0] for path in files} >= {"counter", "sglang"}
    for path in files:
        status = os.stat(path)
        assert status.st_blocks * 512 >= status.st_size, path
