"""A PostgreSQL server of the tests' own, where it is installed; fixtures of both databases.

postgres_url = pytest.fixture(server, scope="session")
url = pytest.fixture(database, params=DATABASES)
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

DATABASES = ("sqlite", "postgresql")


def server() -> Iterator[str]:
    """The URL of one that runs as long as the fixture."""
    if not installed():
        pytest.skip("PostgreSQL is not installed")
    with postgres() as url:
        yield url


def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of each in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/responses.sqlite3"
    return str(request.getfixturevalue("postgres_url"))


def owner() -> str:
    """A test's own: the databases' servers are shared."""
    return uuid.uuid4().hex


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
    initdb, program = _program("initdb"), _program("postgres")
    assert initdb is not None
    assert program is not None
    subprocess.run(
        [initdb, "-D", str(data), "-U", "test", "-A", "trust", "--no-sync"],
        user=user, cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = subprocess.Popen(
        [program, "-D", str(data), "-p", str(port), "-k", str(folder), "-h", "127.0.0.1",
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
