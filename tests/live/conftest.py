"""The real server on the demo model, as a process of its own: one for the session, and fresh ones
for tests that end theirs."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import psutil
import pytest

from bench import models
from tests.support import processes
from tests.support.compute import GROUP, FakeCompute, fake_compute
from tests.support.machine import allowed
from tests.support.small_disk import on_small_disk

ROOT = Path(__file__).parents[2]
READY_WITHIN_S = 600
HANGS_S = 300

# PyTorch's threads spin while they wait for each other. With one for each core they wait for a core
# that a test's clients have, and a token takes many times as long.
ENGINE = {"OMP_NUM_THREADS": "1"}
MODELS: dict[str | None, Callable[[], list[str]]] = {
    "demo": lambda: ["--demo"],
    "tiny": lambda: ["--model-path", str(models.find("tiny")), "--dtype", "float32"],
    None: list,
}
"""Arguments of the server. `tiny` has random weights: for how a server lives and dies, not for what
it answers. None: the test names a model itself."""


class LiveServer:
    """A server process, with its log, and an HTTP client of its own."""

    def __init__(
        self,
        folder: Path,
        *args: str,
        model: str | None = "demo",
        unread: bool = False,
        shared_megabytes: int | None = None,
        command: Callable[[Mapping[str, str]], list[str]] | None = None,
        **env: str,
    ) -> None:
        """`unread`: its stdout is a pipe that nothing reads. `shared_megabytes`: the size of its
        /dev/shm, which is its own then. `command`: what runs it in another way, by its environment;
        `model` and `args` have no effect then."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=HANGS_S)
        self._unread: int | None = None
        if unread:
            self._unread, end = os.pipe()
        self._out = os.fdopen(end, "wb") if unread else (folder / "out.log").open("wb")
        self.started = time.monotonic()
        environment = {**ENGINE, "HOST": "127.0.0.1", "PORT": str(self.port), **env}
        words = [sys.executable, str(ROOT / "serve_hathora.py"), *MODELS[model](), *args]
        if command is not None:
            words = command(environment)
        if shared_megabytes is not None:
            words = on_small_disk(Path("/dev/shm"), shared_megabytes, *words)
        self.process = subprocess.Popen(
            words,
            cwd=folder,
            env={**os.environ, **environment},
            stdout=self._out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its own process group, as a terminal's Ctrl-C reaches it
        )

    @property
    def log(self) -> str:
        return (self.folder / "out.log").read_text(errors="replace")

    @property
    def unread_bytes(self) -> int:
        """What is in the pipe that nothing reads; it holds 65,536."""
        assert self._unread is not None
        held = bytearray(4)
        fcntl.ioctl(self._unread, termios.FIONREAD, held)
        return int.from_bytes(held, sys.byteorder)

    def get(self, path: str) -> httpx.Response:
        return self.http.get(path)

    def wait_for(self, path: str, status: int, within_s: float = READY_WITHIN_S) -> float:
        """Returns the seconds from the process's start until `path` answered with `status`."""
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
        return next(p for p in self.children() if title in processes.title(p))

    def engine_pids(self) -> set[int]:
        """Of SGLang's own processes: the one that tries grammars may be replaced at any time."""
        return {p.pid for p in self.children() if "sglang::" in processes.title(p)}

    def exit_code(self, within_s: float) -> int:
        return self.process.wait(allowed(within_s))

    def metric(self, name: str) -> float:
        """The sum over a metric's labels."""
        lines = self.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if _is_sample(line, name))

    def stop(self) -> None:
        processes.stop(self.process)
        self.http.close()
        self._out.close()
        if self._unread is not None:
            os.close(self._unread)


def _is_sample(line: str, name: str) -> bool:
    return line.startswith((name + " ", name + "{"))


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The shared server. A test that uses it must leave it as it was."""
    server = LiveServer(tmp_path_factory.mktemp("live"))
    try:
        yield server.ready()
    finally:
        server.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., LiveServer]]:
    """Starts servers of the test's own, and stops them at its end."""
    servers: list[LiveServer] = []

    def begin(
        *args: str, model: str | None = "tiny", unread: bool = False, **env: str
    ) -> LiveServer:
        folder = tmp_path / str(len(servers))
        servers.append(LiveServer(folder, *args, model=model, unread=unread, **env))
        return servers[-1]

    yield begin
    for server in servers:
        server.stop()


fake = pytest.fixture(fake_compute)
"""A Compute API, for servers that register a network endpoint."""


def registered(server: LiveServer, fake: FakeCompute) -> LiveServer:
    """Waits until the endpoint is in the group, which a ready server reaches at once."""
    deadline = time.monotonic() + allowed(10)
    while server.get("/health").json()["network"]["state"] != "registered":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert fake.endpoints[GROUP]
    return server
