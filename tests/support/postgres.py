"""A PostgreSQL server of the test's own, if the machine has the program."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def installed() -> bool:
    return _program("initdb") is not None


@contextmanager
def postgres() -> Iterator[str]:
    """Its URL."""
    # It refuses to run as root; another user needs a folder that it can enter.
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    user = None
    if os.getuid() == 0:
        user = "nobody"
        shutil.chown(folder, user)
    data = folder / "data"
    initdb, server = _program("initdb"), _program("postgres")
    assert initdb is not None
    assert server is not None
    subprocess.run(
        [initdb, "-D", str(data), "-U", "test", "-A", "trust", "--no-sync"],
        user=user, cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = subprocess.Popen(
        [server, "-D", str(data), "-p", str(port), "-k", str(folder), "-h", "127.0.0.1",
         "-c", "fsync=off"],
        user=user, cwd=folder, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert running.stderr is not None
        lines = []
        for line in running.stderr:
            lines.append(line)
            if "ready to accept connections" in line:
                break
        else:
            raise AssertionError("".join(lines))
        yield f"postgresql://test@127.0.0.1:{port}/postgres"
    finally:
        running.terminate()
        running.communicate()
        shutil.rmtree(folder, ignore_errors=True)


def _program(name: str) -> str | None:
    if found := shutil.which(name):
        return found
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((str(each / name) for each in folders if (each / name).exists()), None)
