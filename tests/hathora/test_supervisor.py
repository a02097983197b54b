"""A supervised server as processes: however it ends, its endpoint is removed.

The engine is scripted, everything else is real: the supervisor, the server, Google's client
library, over a Compute API on loopback. tests/live/test_network.py does the same once with the real
engine.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support import processes
from tests.support.compute import GROUP, FakeCompute
from tests.support.serving import HANGS_S, PLAIN

SERVER = Path(__file__).parents[2] / "serve_hathora.py"
WITHIN_S = 5.0
ROUNDS = int(os.environ.get("KILL_ROUNDS", "3"))


def engine_args(**options: float) -> str:
    """An answer takes two and a half seconds."""
    return json.dumps({"words": 51, "token_s": 0.05, **options})


class Supervised:
    """A supervisor and the server that it started."""

    def __init__(self, folder: Path, fake: FakeCompute, port: int, **settings: str) -> None:
        self.fake = fake
        self.url = f"http://127.0.0.1:{port}"
        self.folder = folder
        environ = fake.environ(
            HATHORA_DEFAULT_PORT=str(port),
            HOST="127.0.0.1",
            LOG_FORMAT="json",
            ENGINE="scripted",
            **{"ENGINE_ARGS": engine_args(), **settings},
        )
        with (folder / "out.log").open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(SERVER)], env={**os.environ, **environ}, cwd=folder,
                stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    @property
    def log(self) -> str:
        return (self.folder / "out.log").read_text(errors="replace")

    @property
    def endpoints(self) -> list[Any]:
        return self.fake.endpoints[GROUP]

    def get(self, path: str) -> httpx.Response:
        """Get on a new connection, so that any of several processes may answer."""
        return httpx.get(self.url + path, timeout=HANGS_S, verify=PLAIN)

    def health(self) -> dict[str, Any]:
        body: dict[str, Any] = self.get("/health").json()
        return body

    def until(self, holds: Callable[[], object], within_s: float = HANGS_S) -> float:
        """Wait until it holds; returns the seconds that took."""
        began = time.monotonic()
        while True:
            try:
                if holds():
                    return time.monotonic() - began
            except httpx.TransportError:
                pass
            assert time.monotonic() - began < within_s, self.log[-3000:]
            time.sleep(0.01)

    def registered(self) -> Supervised:
        self.until(lambda: self.health()["network"]["state"] == "registered")
        return self

    def server(self) -> psutil.Process:
        """The serving process: the supervisor's child."""
        return psutil.Process(self.process.pid).children()[0]

    def exit_code(self, within_s: float = HANGS_S) -> int:
        return self.process.wait(within_s)

    def stop(self) -> None:
        processes.kill(self.process)


@pytest.fixture
def start(tmp_path: Path, fake: FakeCompute) -> Iterator[Any]:
    started: list[Supervised] = []
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def begin(**settings: str) -> Supervised:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Supervised(folder, fake, port, **settings))
        return started[-1]

    yield begin
    for server in started:
        if server.process.poll() is None:
            server.stop()


def stream(server: Supervised, received: list[str]) -> threading.Thread:
    """A client in a thread, which appends to `received`; returns after the first bytes."""
    body = {"model": "default", "messages": [{"role": "user", "content": "hi"}], "stream": True}

    def read() -> None:
        try:
            with httpx.stream(
                "POST",
                server.url + "/v1/chat/completions",
                json=body,
                timeout=HANGS_S,
                verify=PLAIN,
            ) as answer:
                received.extend(answer.iter_text())
        except httpx.TransportError as error:
            received.append(repr(error))

    thread = threading.Thread(target=read)
    thread.start()
    server.until(lambda: received)
    return thread


def test_the_endpoint_is_attached_once_ready_and_removed_before_the_drain(
    start: Callable[..., Supervised], fake: FakeCompute
) -> None:
    server = start(ENGINE_ARGS=engine_args(loading_s=2))
    server.until(lambda: server.health()["phase"] == "loading")
    assert not server.endpoints
    network = server.registered().health()["network"]
    assert network == {
        "state": "registered", "project": "proj", "group": GROUP, "scope": "zonal",
        "location": "us-west1-b", "endpoint": f"vm-1:{server.url.rpartition(':')[2]}",
    }  # fmt: skip
    assert len(server.endpoints) == 1
    received: list[str] = []
    client = stream(server, received)
    server.process.send_signal(signal.SIGTERM)
    server.until(lambda: server.health()["phase"] == "draining")
    assert not server.endpoints, "draining began before the endpoint was removed"
    assert server.get("/readyz").status_code == 503
    client.join()
    assert "[DONE]" in "".join(received)
    assert server.exit_code() == 0
    ready_lines = [line for line in server.log.splitlines() if '"phase": "ready"' in line]
    assert len(ready_lines) <= 1
    attach, detach = fake.named("attachNetworkEndpoints"), fake.named("detachNetworkEndpoints")
    assert len(attach) == len(detach) == 1


def test_requests_are_served_while_the_endpoint_is_being_removed(
    start: Callable[..., Supervised], fake: FakeCompute
) -> None:
    server = start().registered()
    removed = threading.Event()
    fake.next_operation(done=removed)
    server.process.send_signal(signal.SIGTERM)
    server.until(lambda: server.health()["phase"] == "leaving")
    received: list[str] = []
    client = stream(server, received)
    assert server.get("/readyz").status_code == 503
    removed.set()
    client.join()
    assert "[DONE]" in "".join(received)
    assert server.exit_code() == 0
    assert not server.endpoints


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_the_endpoint_of_a_killed_server_is_removed_within_five_seconds(
    start: Callable[..., Supervised], round_: int
) -> None:
    server = start().registered()
    received: list[str] = []
    client = stream(server, received)
    server.server().kill()
    took_s = server.until(lambda: not server.endpoints)
    assert took_s < WITHIN_S
    assert server.exit_code() == 128 + signal.SIGKILL
    client.join()
    print(f"round {round_}: gone after {took_s * 1000:.0f} ms")


def test_a_server_killed_while_loading_was_never_attached(
    start: Callable[..., Supervised], fake: FakeCompute
) -> None:
    server = start(ENGINE_ARGS=engine_args(loading_s=60))
    server.until(lambda: server.health()["phase"] == "loading")
    server.server().kill()
    assert server.exit_code() == 128 + signal.SIGKILL
    assert not fake.named("attachNetworkEndpoints")
    assert '"signal":"SIGKILL"' in server.log.replace(" ", "")


def test_the_server_ends_with_a_killed_supervisor_and_the_next_start_removes_the_endpoint(
    start: Callable[..., Supervised],
) -> None:
    first = start().registered()
    serving = first.server()
    first.process.kill()
    first.until(lambda: not psutil.pid_exists(serving.pid))
    assert len(first.endpoints) == 1
    second = start(ENGINE_ARGS=engine_args(loading_s=60))
    second.until(lambda: "an endpoint of an earlier process was removed" in second.log)
    assert not second.endpoints


def test_several_serving_processes_share_one_endpoint(
    start: Callable[..., Supervised], fake: FakeCompute
) -> None:
    server = start(TOKENIZER_WORKERS="2").registered()
    for _ in range(8):  # any of the processes may answer
        assert server.health()["network"]["state"] == "registered"
    received: list[str] = []
    client = stream(server, received)
    server.process.send_signal(signal.SIGTERM)
    server.until(lambda: server.health()["phase"] == "draining")
    assert not server.endpoints, "draining began before the endpoint was removed"
    client.join()
    assert "[DONE]" in "".join(received)
    assert server.exit_code() == 0
    assert len(fake.named("attachNetworkEndpoints")) == 1


def test_only_the_supervisor_has_the_key(start: Callable[..., Supervised]) -> None:
    server = start().registered()
    serving = server.server()
    family = [serving, *serving.children(recursive=True)]
    assert all("GCP_SERVICE_ACCOUNT_KEY_BASE64" not in each.environ() for each in family)
    assert os.stat(f"/proc/{server.process.pid}/environ").st_uid == 0
    key = server.fake.key_base64()
    assert key[:40] not in server.log
    libraries = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "torch" not in libraries


def test_the_endpoint_of_a_hanging_server_is_removed(
    start: Callable[..., Supervised],
) -> None:
    server = start().registered()
    serving = server.server()
    serving.suspend()
    server.process.send_signal(signal.SIGTERM)
    assert server.until(lambda: not server.endpoints) < WITHIN_S
    serving.resume()
    assert server.exit_code() == 0


def test_a_closed_terminal_ends_the_server_and_removes_the_endpoint(
    start: Callable[..., Supervised],
) -> None:
    server = start().registered()
    server.process.send_signal(signal.SIGHUP)
    assert server.exit_code() == 0
    assert not server.endpoints


def test_a_second_signal_ends_the_server_at_once(start: Callable[..., Supervised]) -> None:
    server = start(ENGINE_ARGS=engine_args(words=2000)).registered()
    stream(server, [])
    server.process.send_signal(signal.SIGTERM)
    server.until(lambda: server.health()["phase"] in ("leaving", "draining"))
    server.process.send_signal(signal.SIGTERM)
    assert server.exit_code(5) == 128 + signal.SIGTERM
    assert not server.endpoints


def test_a_required_registration_that_is_refused_ends_the_server(
    start: Callable[..., Supervised], fake: FakeCompute
) -> None:
    fake.fail_next("attachNetworkEndpoints", status=403, times=100)
    server = start(GCP_NEG_REQUIRED="true")
    assert server.exit_code() == 72
    assert "403" in server.log


def test_an_optional_registration_that_is_refused_is_reported_and_retried(
    start: Callable[..., Supervised], fake: FakeCompute
) -> None:
    fake.fail_next("attachNetworkEndpoints", status=403, times=1)
    server = start()
    server.until(lambda: server.health()["network"]["state"] == "failed")
    health = server.health()
    assert health["status"] == "ok"
    assert "403" in health["network"]["error"] or "ermission" in health["network"]["error"]
    metrics = server.get("/metrics").text
    assert 'serve_network_state{state="failed"} 1.0' in metrics
    assert "serve_network_failures_total 1.0" in metrics
    server.registered()
    assert "error" not in server.health()["network"]


def test_an_unusable_key_is_refused_before_the_server_is_started(
    start: Callable[..., Supervised],
) -> None:
    server = start(GCP_SERVICE_ACCOUNT_KEY_BASE64="bm90IGEga2V5")
    assert server.exit_code() == 78
    assert "GCP_SERVICE_ACCOUNT_KEY_BASE64" in server.log
    assert "bm90" not in server.log
