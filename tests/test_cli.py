"""What a process does before its role begins: warns of an open API.

The roles are those of the program; what they run is replaced.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from app import cli
from app.web import server

server.run = lambda *_: 0
cli.main(sys.argv[1:])
"""


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


def test_a_server_that_every_machine_may_use_says_so_at_its_start(tmp_path: Path) -> None:
    assert sum("API_KEY is not set" in line for line in _run(tmp_path, HOST="0.0.0.0")) == 1
