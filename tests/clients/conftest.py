"""The servers that the clients talk to, one process each for all tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.clients.environments import FULL, ROOT
from tests.support.processes import stop
from tests.support.serving import HANGS_S, PLAIN


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of the program with its scripted engine: it repeats the prompt, calls tools that
    are required and follows JSON schemas."""
    program = [sys.executable, "serve_hathora.py", "--engine", "scripted", "--port", "0"]
    with _serving(program, tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a server whose answers are written as a model writes them (`answers.py`)."""
    if not FULL.exists():
        pytest.skip("needs SGLang's parsers: make test-full installs them")
    program = [str(FULL), "-m", "tests.clients.model_server"]
    with _serving(program, tmp_path_factory.mktemp("model")) as url:
        yield url


@contextmanager
def _serving(program: list[str], folder: Path) -> Iterator[str]:
    out = folder / "server.log"
    metrics = folder / "metrics"
    metrics.mkdir()
    settings = {
        "HOST": "127.0.0.1",
        "LOG_FILE": "",
        "LOG_FORMAT": "json",
        "PROMETHEUS_MULTIPROC_DIR": str(metrics),
        "STORE_URL": "memory",
    }
    with out.open("wb") as file:
        process = subprocess.Popen(
            program,
            cwd=ROOT,
            env=os.environ | settings,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{_port(process, out)}"
        ends = time.monotonic() + HANGS_S
        while httpx.get(url + "/readyz", verify=PLAIN).status_code != 200:
            assert process.poll() is None, out.read_text()
            assert time.monotonic() < ends, out.read_text()
            time.sleep(0.02)
        yield url
    finally:
        stop(process)


def _port(process: subprocess.Popen[bytes], out: Path) -> int:
    ends = time.monotonic() + HANGS_S
    while time.monotonic() < ends:
        for line in out.read_text().splitlines():
            if '"listening"' in line:
                return int(json.loads(line)["port"])
        assert process.poll() is None, out.read_text()
        time.sleep(0.01)  # its log is a file: there is nothing to wait on
    raise AssertionError(out.read_text())
