"""How the server starts, drains and dies, with the real engine and its processes."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from bench import models
from tests.live.conftest import HANGS_S, LiveServer, registered
from tests.support import sse, standstill
from tests.support.compute import GROUP, FakeCompute
from tests.support.machine import allowed

pytestmark = pytest.mark.live
Start = Callable[..., LiveServer]
ENDLESS = 3900
"""Tokens that fill the tiny model's context: half a minute with several streams."""


def story(tokens: int, *, stream: bool = True) -> dict[str, Any]:
    return {
        "model": "sglang", "temperature": 0, "ignore_eos": True, "max_tokens": tokens,
        "messages": [{"role": "user", "content": "Tell a long story."}], "stream": stream,
    }  # fmt: skip


class Streams:
    """Clients in threads: each posts one request, and keeps its answer and when it ended."""

    def __init__(
        self, server: LiveServer, bodies: list[dict[str, Any]], *, silent_s: float = HANGS_S
    ) -> None:
        """`silent_s`: that a client waits for the next piece."""
        self._silent_s = silent_s
        self.results: list[dict[str, Any]] = [{} for _ in bodies]
        self._begun = threading.Semaphore(0)
        self._threads = [
            threading.Thread(target=self._run, args=(server, body, result))
            for body, result in zip(bodies, self.results, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, server: LiveServer, body: dict[str, Any], result: dict[str, Any]) -> None:
        text = ""
        try:
            with (
                httpx.Client(base_url=server.url, timeout=self._silent_s) as client,
                client.stream("POST", "/v1/chat/completions", json=body) as answer,
            ):
                result["status"] = answer.status_code
                self._begun.release()
                for piece in answer.iter_text():
                    text += piece
        except httpx.TransportError as error:
            result["error"] = repr(error)
            self._begun.release()
        result |= {"text": text, "ended": time.monotonic()}

    def wait_begun(self, count: int) -> None:
        for _ in range(count):
            assert self._begun.acquire(timeout=HANGS_S)

    def join(self) -> list[dict[str, Any]]:
        for thread in self._threads:
            thread.join(HANGS_S)
        return self.results


def _gone(pids: list[int]) -> bool:
    return not any(psutil.pid_exists(pid) for pid in pids)


def _nothing_left(pids: list[int], within_s: float = 2.0) -> None:
    deadline = time.monotonic() + allowed(within_s)
    while not _gone(pids):
        assert time.monotonic() < deadline, "processes of the engine are left"
        time.sleep(0.02)


def test_a_drain_finishes_every_request(start: Start) -> None:
    server = start(MAX_CONCURRENCY="32", DRAIN_TIMEOUT="300").ready()
    pids = [p.pid for p in server.children()]
    streams = Streams(server, [story(500)] * 20)
    streams.wait_begun(20)
    signalled, clock = time.monotonic(), standstill.Clock(server)
    server.process.send_signal(signal.SIGTERM)
    while server.get("/readyz").status_code != 503:
        pass
    unready = clock.seconds
    refused = server.http.post("/v1/chat/completions", json=story(1))
    code = server.exit_code(within_s=320)
    took = time.monotonic() - signalled
    print(f"readyz 503 after {unready * 1e3:.0f} ms, out after {took:.1f} s")
    assert unready < allowed(0.1)
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "server_shutting_down"
    for result in streams.join():
        frames = sse.frames(result["text"])
        assert frames[-1] == "[DONE]"
        assert frames[-2]["choices"][0]["finish_reason"] == "length"
    assert code == 0
    _nothing_left(pids)


def test_requests_left_after_the_drain_timeout_get_an_error(
    start: Start, fake: FakeCompute
) -> None:
    server = start(DRAIN_TIMEOUT="1", **fake.environ())
    server.wait_for("/livez", 200)
    assert not fake.endpoints[GROUP], "registered before a token was generated"
    registered(server.ready(), fake)
    streams = Streams(server, [story(ENDLESS), story(ENDLESS, stream=False)])
    streams.wait_begun(1)
    server.process.send_signal(signal.SIGTERM)
    assert server.exit_code(within_s=15) == 0
    streamed, whole = streams.join()
    assert [name for name in fake.names if name != "operation"] == [
        "aggregatedList", "get", "listNetworkEndpoints",  # an earlier process has left nothing
        "aggregatedList", "get", "listNetworkEndpoints",
        "attachNetworkEndpoints", "listNetworkEndpoints",
        "detachNetworkEndpoints", "listNetworkEndpoints",
    ]  # fmt: skip
    assert fake.named("detachNetworkEndpoints")[0].at < streamed["ended"], "drained before it left"
    *_, error, done = sse.frames(streamed["text"])
    assert done == "[DONE]"
    assert error["error"]["code"] == "server_shutting_down"
    assert whole["status"] == 503
    assert json.loads(whole["text"])["error"]["code"] == "server_shutting_down"


def test_a_second_sigterm_ends_it_at_once(start: Start) -> None:
    server = start().ready()
    pids = [p.pid for p in server.children()]
    streams = Streams(server, [story(ENDLESS)] * 4)
    streams.wait_begun(4)
    server.process.send_signal(signal.SIGTERM)
    server.wait_for("/readyz", 503)
    signalled = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert server.exit_code(within_s=5) == 128 + signal.SIGTERM
    took = time.monotonic() - signalled
    print(f"out {took:.2f} s after the second SIGTERM")
    assert took < allowed(2)
    _nothing_left(pids)
    streams.join()


def test_ctrl_c_in_a_terminal_drains_too(start: Start) -> None:
    server = start(DRAIN_TIMEOUT="300").ready()
    pids = [p.pid for p in server.children()]
    streams = Streams(server, [story(500)] * 8)
    streams.wait_begun(8)
    # As a terminal does, to the engine's processes, too.
    os.killpg(server.process.pid, signal.SIGINT)
    assert server.exit_code(within_s=320) == 0
    for result in streams.join():
        assert sse.frames(result["text"])[-1] == "[DONE]"
        assert '"error"' not in result["text"]
    _nothing_left(pids)
    assert "Traceback" not in server.log


@pytest.mark.parametrize(
    ("victim", "networked"), [("sglang::scheduler", True), ("sglang::detokenizer", False)]
)
def test_every_client_gets_an_error_when_the_engine_is_killed(
    start: Start, fake: FakeCompute, victim: str, networked: bool
) -> None:
    settings = fake.environ() if networked else {"DETOKENIZER_PROCESS": "true"}
    server = start(**settings).ready()
    if networked:
        registered(server, fake)
    pids = [p.pid for p in server.children()]
    streams = Streams(server, [story(ENDLESS)] * 8 + [story(ENDLESS, stream=False)] * 4)
    streams.wait_begun(8)
    deadline = time.monotonic() + HANGS_S
    # Those that do not stream must be in flight, too.
    while server.metric("serve_in_flight_requests") < 12:
        assert time.monotonic() < deadline
    killed = time.monotonic()
    server.child(victim).kill()
    code = server.exit_code(within_s=10)
    out = time.monotonic() - killed
    results = streams.join()
    slowest = max(result["ended"] for result in results) - killed
    print(
        f"{victim}: last client got its error after {slowest:.2f} s, exit {code} after {out:.2f} s"
    )
    for streamed in results[:8]:
        *_, error, done = sse.frames(streamed["text"])
        assert done == "[DONE]"
        assert error["error"]["code"] == "engine_dead"
    for whole in results[8:]:
        assert whole["status"] == 503
        assert json.loads(whole["text"])["error"]["code"] == "engine_dead"
    assert slowest < allowed(2)
    assert code == 70
    assert out < allowed(5)
    if networked:
        gone = fake.named("detachNetworkEndpoints")[0].at - killed
        print(f"out of the group after {gone:.2f} s")
        assert not fake.endpoints[GROUP]
        assert gone < allowed(5)
    _nothing_left(pids)


def test_an_engine_killed_while_loading_ends_the_start(start: Start) -> None:
    server = start()
    deadline = time.monotonic() + HANGS_S
    while True:
        assert time.monotonic() < deadline
        try:
            scheduler = server.child("sglang::scheduler")
            break
        except (StopIteration, psutil.Error):
            time.sleep(0.05)
    pids = [p.pid for p in server.children()]
    killed = time.monotonic()
    scheduler.kill()
    assert server.exit_code(within_s=10) == 70
    assert time.monotonic() - killed < allowed(5)
    _nothing_left(pids)


def test_sigterm_while_loading_ends_the_server_cleanly(start: Start) -> None:
    server = start()
    server.wait_for("/livez", 200)
    while not server.children():
        time.sleep(0.05)
    pids = [p.pid for p in server.children()]
    server.process.send_signal(signal.SIGTERM)
    assert server.exit_code(within_s=5) == 0
    _nothing_left(pids)


def test_the_port_answers_at_once_and_while_the_engine_loads(start: Start) -> None:
    with _few_files():
        server = start(model="demo")
    first = server.wait_for("/livez", 200)
    used = psutil.Process(server.process.pid).cpu_times()
    health = server.get("/health")
    assert health.status_code == 503
    assert health.json()["status"] == "starting"
    assert int(health.headers["retry-after"]) >= 1
    assert server.get("/ping").status_code == 204
    refused = server.http.post("/v1/chat/completions", json=story(1))
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "model_not_ready"
    slowest = 0.0
    while server.get("/readyz").status_code != 200:
        asked = time.monotonic()
        assert server.get("/livez").status_code == 200
        slowest = max(slowest, time.monotonic() - asked)
        time.sleep(0.1)
    ready = time.monotonic() - server.started
    cpu_s = used.user + used.system  # what it takes on a machine that does nothing else
    print(
        f"livez after {first:.2f} s ({cpu_s:.2f} s of work), slowest {slowest * 1e3:.0f} ms, "
        f"ready after {ready:.1f} s"
    )
    assert cpu_s < allowed(1.5)
    assert server.get("/health").json()["status"] == "ok"
    assert server.get("/ping").status_code == 200
    _engine_has_started_early(server)


@contextmanager
def _few_files() -> Iterator[None]:
    """As few as systems allow a process that has not asked for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _engine_has_started_early(server: LiveServer) -> None:
    """And has the limits all the same that SGLang raises when it starts one."""
    assert "begins anew" not in server.log
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard != resource.RLIM_INFINITY else 65_535
    pid = server.child("sglang::scheduler").pid
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_STACK):
        own = resource.prlimit(server.process.pid, limit)
        assert resource.prlimit(pid, limit) == own
    assert resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] >= min(65_535, most)


def test_overload_is_refused_and_no_admitted_request_is_lost(start: Start) -> None:
    server = start(model="demo", MAX_CONCURRENCY="16", MAX_QUEUE="16").ready()

    answers: list[httpx.Response] = []

    async def overload() -> None:
        limits = httpx.Limits(max_connections=300)
        async with httpx.AsyncClient(
            base_url=server.url, timeout=2 * HANGS_S, limits=limits
        ) as client:
            requests = [
                client.post("/v1/chat/completions", json=story(40, stream=no % 2 == 0))
                for no in range(200)
            ]
            answers.extend(await asyncio.gather(*requests))

    probes = standstill.waits(server, lambda: asyncio.run(overload()))
    served = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 503]
    p99 = probes[int(len(probes) * 0.99)]
    print(
        f"{len(served)} served, {len(refused)} refused; livez p99 {p99 * 1e3:.1f} ms of "
        f"{len(probes)} probes, max {probes[-1] * 1e3:.0f} ms"
    )
    assert len(served) + len(refused) == 200
    assert len(served) >= 32
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert {answer.json()["error"]["code"] for answer in refused} == {"server_is_overloaded"}
    for answer in served:
        if answer.headers["content-type"].startswith("text/event-stream"):
            assert sse.frames(answer.text)[-1] == "[DONE]"
    assert p99 < allowed(0.05)


def _failed_start(server: LiveServer, within_s: float) -> tuple[int, str]:
    """Exit code, and the last line of the log."""
    code = server.exit_code(within_s)
    print(f"exit {code} after {time.monotonic() - server.started:.1f} s")
    lines = [line for line in server.log.splitlines() if line.strip()]
    return code, lines[-1]


def test_a_missing_model_stops_the_start(start: Start, tmp_path: Path) -> None:
    code, line = _failed_start(
        start("--model-path", str(tmp_path / "nowhere"), model=None), within_s=30
    )
    assert code == 78
    assert "MODEL_PATH: there is nothing at" in line


def test_a_broken_config_stops_the_start(start: Start, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": [')
    code, line = _failed_start(start("--model-path", str(tmp_path), model=None), within_s=30)
    assert code == 78
    assert "config.json is not JSON" in line


@pytest.mark.rare
def test_a_config_that_sglang_refuses_stops_the_start(start: Start, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["NoSuchModel"]}')
    code, line = _failed_start(start("--model-path", str(tmp_path), model=None), within_s=120)
    assert code == 71
    assert "the engine could not be started: " in line


@pytest.mark.parametrize(
    "file", ["model.safetensors", pytest.param("tokenizer.json", marks=pytest.mark.rare)]
)
def test_a_broken_model_stops_the_start_and_is_not_taken_for_a_lost_engine(
    start: Start, tmp_path: Path, file: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(models.find("tiny"), model)
    (model / file).write_bytes((model / file).read_bytes()[:500])
    code, line = _failed_start(
        start("--model-path", str(model), "--dtype", "float32", model=None), within_s=120
    )
    assert code == 71, line
    assert "the engine could not be started: " in line
    assert "SIGKILL" not in line


def test_a_taken_port_stops_the_start(start: Start, live: LiveServer) -> None:
    code, line = _failed_start(start("--port", str(live.port), PORT=""), within_s=10)
    assert code == 78
    assert f"cannot listen on 127.0.0.1:{live.port}" in line


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has a GPU")
def test_a_missing_device_stops_the_start(start: Start) -> None:
    code, line = _failed_start(start(DEVICE="cuda"), within_s=60)
    assert code == 78
    assert "DEVICE=cuda, but no usable CUDA GPU was found" in line


def test_a_wrong_setting_stops_the_start(start: Start) -> None:
    code, line = _failed_start(start(MAX_QUEUE="many"), within_s=10)
    assert code == 78
    assert line == "serve_hathora: MAX_QUEUE: must be an integer, not 'many'"


def test_an_unknown_engine_option_stops_the_start(start: Start) -> None:
    code, line = _failed_start(start("--engine-arg", "chunked_prefil_size=1"), within_s=90)
    assert code == 78
    assert "SGLang has no option 'chunked_prefil_size'; did you mean chunked_prefill_size?" in line
