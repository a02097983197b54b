"""Starting and stopping what is compared: `sglang.launch_server` and this server.

Both get the same model, the same engine options and the same environment, in a process group of
their own. What is measured is the serving side: every process of the server that is not one of the
engine's (`sglang::scheduler`, `sglang::detokenizer`).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from app.engine import environment

ROOT = Path(__file__).parents[1]
OURS, THEIRS, FLOOR = "this server", "launch_server", "floor"
MODEL_NAME = "bench"
START_TIMEOUT_S = 300
STOP_TIMEOUT_S = 45
_KV_POOL_TOKENS = {"tiny": 131_072, "demo": 65_536}
_DIFFER_BY_NATURE = {
    "incremental_streaming_output",  # how the serving process takes its output, not the engine's
    "host", "port", "launch_command", "startup_time", "uptime_s", "internal_states", "frontend",
    "random_seed", "tokenizer_path", "served_model_name", "nccl_port", "version", "warmups",
}  # fmt: skip


class BenchError(Exception):
    """The benchmark cannot go on; a figure would be wrong."""


@dataclass(frozen=True)
class Subject:
    """What one server is started with."""

    model: Path
    options: Mapping[str, Any]
    """SGLang's engine options, as `Engine(...)` takes them."""
    theirs: Sequence[str] = ()
    """Further arguments for launch_server alone."""
    ours: Mapping[str, str] = field(default_factory=dict)
    """Further settings of this server alone."""


def engine_options(model: str, *, metrics: bool) -> dict[str, Any]:
    """What app/engine/launch.py gives the engine, and a KV cache that every load fits into.

    Also prepares this process's environment, which all others inherit.
    """
    import torch

    options: dict[str, Any] = {
        "max_total_tokens": _KV_POOL_TOKENS[model],
        "constrained_json_disable_any_whitespace": True,
        "enable_metrics": metrics,
        "tool_call_parser": "hermes",
    }
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "SGLANG_RETURN_ORIGINAL_LOGPROB": "1"}
    if model == "tiny":
        # Its matrices are so small that two threads wait for each other longer than they compute;
        # where others want the cores, a hundred times longer. One head and one thread never wait.
        os.environ["OMP_NUM_THREADS"] = "1"
        options["dtype"] = "float32"  # without AMX a quarter of bfloat16's cost
    if torch.accelerator.current_accelerator(check_available=True) is None:
        environment.use_cpu()
        options |= {"device": "cpu", "attention_backend": "torch_native", "sleep_on_idle": True}
    return options


@contextmanager
def launch_server(subject: Subject, folder: Path) -> Iterator[Server]:
    port = _free_port()
    command = [
        sys.executable, "-m", "sglang.launch_server", "--host", "127.0.0.1", "--port", str(port),
        "--model-path", str(subject.model), "--served-model-name", MODEL_NAME,
        *_flags(subject.options), *subject.theirs,
    ]  # fmt: skip
    with _running(THEIRS, command, {}, port, folder) as server:
        yield server


@contextmanager
def this_server(subject: Subject, folder: Path) -> Iterator[Server]:
    port, options = _free_port(), dict(subject.options)
    settings = {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "MODEL_PATH": str(subject.model),
        "SERVED_MODEL_NAME": MODEL_NAME,
        "KV_POOL_TOKENS": str(options["max_total_tokens"]),
        "ENABLE_METRICS": str(options["enable_metrics"]),
        "TOOL_CALL_PARSER": options["tool_call_parser"],
        **({"DTYPE": options["dtype"]} if "dtype" in options else {}),
        **subject.ours,
    }
    command = [sys.executable, str(ROOT / "serve_hathora.py")]
    with _running(OURS, command, settings, port, folder) as server:
        yield server


class Server:
    """A server that generates."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.name, self.process, self.log = name, process, log
        self.url = f"http://127.0.0.1:{port}"
        self.http = httpx.Client(base_url=self.url, timeout=60)
        self.first_token_s = 0.0

    def generate_first_token(self, started: float) -> None:
        """Ask until a token comes; sets `first_token_s`, counted from `started`."""
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
        """The engine's options, as they came out."""
        found = self.http.get("/server_info").raise_for_status().json()
        return {name: value for name, value in found.items() if name not in _DIFFER_BY_NATURE}

    def serving_cpu_s(self) -> float:
        """Seconds of processor time used so far, all threads."""
        times = [process.cpu_times() for process in self._serving()]
        return sum(each.user + each.system for each in times)

    def serving_rss_bytes(self) -> int:
        return sum(process.memory_info().rss for process in self._serving())

    def last_lines(self, count: int = 25) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])

    def _serving(self) -> list[psutil.Process]:
        main = psutil.Process(self.process.pid)
        return [main, *(p for p in main.children(recursive=True) if not _of_engine(p))]


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Engine options that both report and that are not the same."""
    return [
        f"{name}: {one[name]!r}, {other[name]!r}"
        for name in sorted(one.keys() & other.keys())
        if json.dumps(one[name], sort_keys=True) != json.dumps(other[name], sort_keys=True)
    ]


def _of_engine(process: psutil.Process) -> bool:
    return any(part.startswith("sglang::") for part in process.cmdline())


@contextmanager
def _running(
    name: str, command: Sequence[str], settings: Mapping[str, str], port: int, folder: Path
) -> Iterator[Server]:
    log = folder / f"{name.replace(' ', '-')}.log"
    started = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=folder, env=_environment() | settings, stdout=out,
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
    """Politely, then for certain: nothing of its process group is left."""
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        psutil.wait_procs(children, timeout=5)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _environment() -> dict[str, str]:
    """This process's, without settings of this server that a shell may have exported."""
    from app.settings import Settings

    names = {
        name
        for about in Settings.model_fields.values()
        for name in about.json_schema_extra["names"]  # type: ignore[index,call-overload,union-attr]
    }
    kept = {"HF_TOKEN", "DOWNLOAD_DIR"}
    found = {name: value for name, value in os.environ.items() if name not in names - kept}
    return found | {"PYTHONPATH": os.pathsep.join([str(ROOT), *_paths()])}


def _paths() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def _flags(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            yield flag
        elif value is not False:
            yield from (flag, str(value))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
