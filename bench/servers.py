"""Starting and stopping the servers: `sglang.launch_server`, its form in Rust, and this one.

All get the same model, engine options and environment, each in its own process group. Measured are
the serving side (the process that was started, and its children that listen on the port) and the
whole tree of processes, the engine among them: the server in Rust runs inside its scheduler.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench.setup import MODEL_NAME, ROOT, Subject, as_flags, as_settings, shell_environment

OURS, THEIRS, RUST, FLOOR = "this server", "launch_server", "Rust server", "floor"
START_TIMEOUT_S = 300
STOP_TIMEOUT_S = 45
_SETTLE_WITHIN_S = 60
_IDLE_CPU_S = 0.15


class BenchError(Exception):
    """The benchmark must end: a figure would be wrong."""


def _launch(subject: Subject, port: int) -> list[str]:
    return [
        sys.executable, "-m", "sglang.launch_server", "--host", "127.0.0.1", "--port", str(port),
        "--model-path", str(subject.model), "--served-model-name", MODEL_NAME,
    ]  # fmt: skip


@contextmanager
def launch_server(subject: Subject, folder: Path) -> Iterator[Server]:
    port = _free_port()
    command = [*_launch(subject, port), *as_flags(subject.options), *subject.theirs]
    with _running(THEIRS, command, {}, port, folder) as server:
        yield server


@contextmanager
def rust_server(subject: Subject, folder: Path) -> Iterator[Server]:
    """SGLang's own, whose API, tokenizer and detokenizer are threads of the scheduler."""
    port = _free_port()
    command = [*_launch(subject, port), *as_flags(subject.options)]
    with _running(RUST, command, {"SGLANG_RUST_SERVER": "1"}, port, folder) as server:
        yield server


@contextmanager
def this_server(subject: Subject, folder: Path) -> Iterator[Server]:
    port = _free_port()
    settings = {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "MODEL_PATH": str(subject.model),
        "SERVED_MODEL_NAME": MODEL_NAME,
        **as_settings(subject.options),
        **subject.ours,
    }
    command = [sys.executable, str(ROOT / "serve_hathora.py")]
    with _running(OURS, command, settings, port, folder) as server:
        yield server


class Server:
    """A server that has generated its first token."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.name, self.process, self.port, self.log = name, process, port, log
        self.url = f"http://127.0.0.1:{port}"
        self.http = httpx.Client(base_url=self.url, timeout=60)
        self.first_token_s = 0.0

    def generate_first_token(self, started: float) -> None:
        """Send requests until a token comes; sets `first_token_s`, counted from `started`."""
        body = {"model": MODEL_NAME, "messages": [{"role": "user", "content": "Hello"}],
                "max_tokens": 1}  # fmt: skip
        while (waited_s := time.monotonic() - started) < START_TIMEOUT_S:
            if (code := self.process.poll()) is not None:
                raise BenchError(f"{self.name} ended with {code}:\n{self.last_lines()}")
            with suppress(httpx.TransportError):
                if self.http.post("/v1/chat/completions", json=body).status_code == 200:
                    self.first_token_s = time.monotonic() - started
                    return
            time.sleep(0.1)
        raise BenchError(f"{self.name} gave no token in {waited_s:.0f} s:\n{self.last_lines()}")

    def options(self) -> dict[str, Any]:
        """The engine's options, as the server reports them; empty if it has no route for them."""
        answer = self.http.get("/server_info")
        if answer.status_code == 404:
            return {}
        options: dict[str, Any] = answer.raise_for_status().json()
        return options

    def settle(self) -> None:
        """Wait until none of its processes is busy with the start any more."""
        until = time.monotonic() + _SETTLE_WITHIN_S
        while time.monotonic() < until:
            before_s = _cpu_s(self._all())
            time.sleep(1)
            if _cpu_s(self._all()) - before_s < _IDLE_CPU_S:
                return
        raise BenchError(f"{self.name} is busy {_SETTLE_WITHIN_S} s after it was ready")

    def serving_cpu_s(self) -> float:
        """Seconds of processor time used so far, by all threads."""
        return _cpu_s(self._serving())

    def serving_rss_bytes(self) -> int:
        return sum(process.memory_info().rss for process in self._serving())

    def text_cpu_s(self) -> float:
        """Of the serving side and of what makes text of the model's tokens for it."""
        detokenizers = [each for each in self._all() if _title(each) == "sglang::detokenizer"]
        return _cpu_s([*self._serving(), *detokenizers])

    def tree_cpu_s(self) -> float:
        return _cpu_s(self._all())

    def tree_memory_bytes(self) -> tuple[int, int]:
        """Resident, each process by itself; and what they do not share."""
        infos = [process.memory_full_info() for process in self._all()]
        return sum(info.rss for info in infos), sum(info.uss for info in infos)

    def last_lines(self, count: int = 25) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])

    def _all(self) -> list[psutil.Process]:
        main = psutil.Process(self.process.pid)
        return [main, *main.children(recursive=True)]

    def _serving(self) -> list[psutil.Process]:
        main, *others = self._all()
        return [main, *(process for process in others if _listens(process, self.port))]


def _title(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline()).strip()
    return ""


def _listens(process: psutil.Process, port: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        sockets = process.net_connections("tcp")
        return any(
            each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in sockets
        )
    return False


def _cpu_s(processes: Iterable[psutil.Process]) -> float:
    used_s = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            times = process.cpu_times()
            used_s += times.user + times.system
    return used_s


@contextmanager
def _running(
    name: str, command: Sequence[str], settings: dict[str, str], port: int, folder: Path
) -> Iterator[Server]:
    log = folder / f"{name.replace(' ', '-')}.log"
    started = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=folder, env=shell_environment() | settings, stdout=out,
            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    server = Server(name, process, port, log)
    try:
        server.generate_first_token(started)
        yield server
    finally:
        server.http.close()
        end(process)


def end(process: subprocess.Popen[Any]) -> None:
    """SIGTERM, then SIGKILL to its whole process group."""
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        psutil.wait_procs(children, timeout=5)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
