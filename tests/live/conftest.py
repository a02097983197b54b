"""The real server on the real demo model, as a process of its own: one for the session, and fresh
ones for the tests that end theirs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.compute import GROUP, FakeCompute, fake_compute

ROOT = Path(__file__).parents[2]
READY_WITHIN_S = 240


class LiveServer:
    """A server process. Ended by its own pid, and nothing of it may be left."""

    def __init__(self, folder: Path, *args: str, demo: bool = True, **env: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=60)
        self._out = (folder / "out.log").open("wb")
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "serve_hathora.py"), *(["--demo"] if demo else []), *args],
            cwd=folder,
            env={**os.environ, "HOST": "127.0.0.1", "PORT": str(self.port), **env},
            stdout=self._out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its own process group: what a terminal's Ctrl-C goes to
        )

    @property
    def log(self) -> str:
        return (self.folder / "out.log").read_text(errors="replace")

    def get(self, path: str) -> httpx.Response:
        return self.http.get(path)

    def wait_for(self, path: str, status: int, within_s: float = READY_WITHIN_S) -> float:
        """Seconds since the process's start until `path` answered with `status`."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                pytest.fail(f"the server ended with {self.process.returncode}:\n{self.log[-3000:]}")
            try:
                if self.get(path).status_code == status:
                    return time.monotonic() - self.started
            except httpx.TransportError:
                pass
            time.sleep(0.02)
        pytest.fail(f"{path} did not answer {status} within {within_s} s:\n{self.log[-3000:]}")

    def ready(self) -> LiveServer:
        self.wait_for("/readyz", 200)
        return self

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, title: str) -> psutil.Process:
        """One of the engine's processes by its title, such as `sglang::scheduler`."""
        return next(p for p in self.children() if title in " ".join(p.cmdline()))

    def engine_pids(self) -> set[int]:
        """Of SGLang's processes; the one that tries grammars may be replaced at any time."""
        return {p.pid for p in self.children() if "sglang::" in " ".join(p.cmdline())}

    def exit_code(self, within_s: float) -> int:
        return self.process.wait(within_s)

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        lines = self.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if _is_sample(line, name))

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.http.close()
        self._out.close()


def _is_sample(line: str, name: str) -> bool:
    return line.startswith((name + " ", name + "{"))


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The shared server. A test that uses it leaves it as it was."""
    server = LiveServer(tmp_path_factory.mktemp("live"))
    try:
        yield server.ready()
    finally:
        server.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., LiveServer]]:
    """Start a server of the test's own; what it leaves running is ended."""
    servers: list[LiveServer] = []

    def begin(*args: str, demo: bool = True, **env: str) -> LiveServer:
        servers.append(LiveServer(tmp_path / str(len(servers)), *args, demo=demo, **env))
        return servers[-1]

    yield begin
    for server in servers:
        server.stop()


fake = pytest.fixture(fake_compute)
"""A Compute API, for servers that register a network endpoint."""


def registered(server: LiveServer, fake: FakeCompute) -> LiveServer:
    """Once the endpoint is in the group; a server that is ready gets there at once."""
    deadline = time.monotonic() + 10
    while server.get("/health").json()["network"]["state"] != "registered":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert fake.endpoints[GROUP]
    return server
