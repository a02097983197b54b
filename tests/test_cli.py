"""What a process does before its role begins: takes keys away, warns of an open API.

The roles are those of the program; what they run is replaced.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, sys
from unittest.mock import Mock
from app import cli, processes
from app.runpod import worker
from app.web import server
from app.workers import child

def run(*_):
    held = [name in os.environ for name in ("API_KEY", "STORE_URL", "ENGINE_ARGS", "HF_TOKEN")]
    sys.stdout.write(f"{held}\\n")  # at once: the log's thread writes there, too
    return 0

server.run = worker.run = run
child.WorkerControl = processes.inherited_socket = Mock()
cli.main(sys.argv[1:])
"""
ROLES = {"serve": [], "runpod": ["runpod"], "one of several": ["--process", "0:0:0"]}


def _run(folder: Path, *arguments: str, **environment: str) -> list[str]:
    """Returns what the process wrote to stdout."""
    settings = {
        "ENGINE": "scripted", "HOST": "127.0.0.1", "PORT": "0", "LOG_FILE": "",
        "TMPDIR": str(folder),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env={**os.environ, **settings, **environment},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("role", ROLES)
def test_what_a_process_starts_inherits_the_token_for_models_and_no_key(
    role: str, tmp_path: Path
) -> None:
    keys = {"API_KEY": "sk", "STORE_URL": "memory", "ENGINE_ARGS": '{"words": 3}', "HF_TOKEN": "hf"}
    lines = _run(tmp_path, *ROLES[role], **keys)
    assert any("[False, False, False, True]" in line for line in lines)


def test_a_server_that_every_machine_may_use_says_so_at_its_start(tmp_path: Path) -> None:
    assert sum("API_KEY is not set" in line for line in _run(tmp_path, HOST="0.0.0.0")) == 1
