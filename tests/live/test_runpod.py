"""The RunPod worker with the real engine and a platform of ours: the SDK's loop, output forms,
growing batches, and how the worker ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from app.runpod.batches import PATIENCE_S
from tests.live.conftest import ENGINE, MODELS, ROOT, LiveServer
from tests.support import processes, sse
from tests.support.machine import allowed
from tests.support.runpod_platform import Job, Platform

pytestmark = pytest.mark.live
T = TypeVar("T")
READY_WITHIN_S = 240
ASK = [{"role": "user", "content": "What is the capital of France?"}]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def openai(route: str, **body: Any) -> dict[str, Any]:
    return {"openai_route": route, "openai_input": body}


def story(tokens: int, *, stream: bool = False) -> dict[str, Any]:
    params = {"max_tokens": tokens, "ignore_eos": True, "temperature": 0}
    return {"prompt": "Once upon a time", "stream": stream, "sampling_params": params}


class LiveWorker:
    """A worker process, and its platform on an event loop in a thread of the test's."""

    def __init__(
        self,
        folder: Path,
        *args: str,
        command: Callable[[Mapping[str, str]], list[str]] | None = None,
        **env: str,
    ) -> None:
        """`command`: what runs it in another way, by its environment; `args` have no effect
        then."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.platform = Platform()
        self.wait(self.platform.__aenter__())
        self._out = (folder / "out.log").open("wb")
        environment = {**ENGINE, **self.platform.environment, **env}
        words = [sys.executable, str(ROOT / "serve_hathora.py"), "runpod", *args]
        self.process = subprocess.Popen(
            words if command is None else command(environment),
            cwd=folder,
            env={**os.environ, "HOME": os.environ.get("HOME", str(folder)), **environment},
            stdout=self._out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait(self, work: Coroutine[Any, Any, T], within_s: float = 300) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(allowed(within_s))

    @property
    def log(self) -> str:
        return (self.folder / "out.log").read_text(errors="replace")

    def ready(self) -> LiveWorker:
        """Waits until the worker takes jobs."""
        deadline = time.monotonic() + READY_WITHIN_S
        while not self.platform.asked_for:
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the worker does not take jobs:\n{self.log[-3000:]}")
            time.sleep(0.05)
        return self

    def submit(self, input: Any) -> Job:
        async def submit() -> Job:
            return self.platform.submit(input)

        return self.wait(submit())

    def result(self, job: Job) -> Job:
        return self.wait(self.platform.result(job, within_s=290))

    def ask(self, input: Any) -> Job:
        job = self.result(self.submit(input))
        assert job.status == "COMPLETED", job.error
        return job

    def when(self, job: Job, holds: Callable[[], Any]) -> None:
        self.wait(self.platform.when(job, holds, within_s=290))

    def cancel(self, job: Job) -> None:
        self._loop.call_soon_threadsafe(self.platform.cancel, job)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self) -> None:
        processes.stop(self.process)
        with contextlib.suppress(TimeoutError):
            self.wait(self.platform.__aexit__(), 10)
        self.wait(_end_tasks(), 10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._out.close()


async def _end_tasks() -> None:
    """End the platform's tasks of connections that the worker left open."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveWorker]:
    """The shared worker. A test that uses it must leave it as it was; the last one ends it."""
    running = LiveWorker(
        tmp_path_factory.mktemp("worker"),
        "--demo",
        MAX_CONCURRENCY="64",
        DRAIN_TIMEOUT="300",
        JOB_OUTPUT="classic",
    )
    try:
        yield running.ready()
    finally:
        running.stop()


def test_a_chat_is_the_same_whole_and_streamed(worker: LiveWorker) -> None:
    body = {"messages": ASK, "max_tokens": 24, "temperature": 0}
    whole = worker.ask(openai(CHAT, **body)).output[0]
    text = whole["choices"][0]["message"]["content"]
    assert "Paris" in text
    job = worker.ask(openai(CHAT, **body, stream=True))
    frames = sse.frames("".join(job.output))
    assert sse.text_of(frames) == text
    assert frames[-1] == "[DONE]"
    assert job.times[0] < job.times[-1]


def test_worker_vllms_output_form_whole_and_streamed(worker: LiveWorker) -> None:
    (whole,) = worker.ask(story(40)).output
    job = worker.ask(story(40, stream=True))
    tokens = [token for piece in job.output for token in piece["choices"][0]["tokens"]]
    assert ["".join(tokens)] == whole["choices"][0]["tokens"]
    assert job.output[-1]["usage"] == whole["usage"]
    assert whole["usage"]["output"] == 40


def test_the_yields_of_a_stream_grow(worker: LiveWorker) -> None:
    job = worker.ask({**story(40, stream=True), "max_batch_size": 9})
    sizes = [len(piece["choices"][0]["tokens"]) for piece in job.output]
    print(f"pieces of each yield: {sizes}")
    planned = [1, 3, *[9] * len(sizes)]
    waits = [after - before for before, after in pairwise(job.times)]
    for size, most, waited_s in list(zip(sizes[1:], planned[1:], waits, strict=False))[:-1]:
        # On a busy machine a smaller one goes out when its first piece has waited long enough.
        assert size == most or (size < most and waited_s > 0.5 * PATIENCE_S)
    assert sizes[0] == 1
    assert max(sizes) == 9
    assert job.times[-1] - job.times[0] > 0.05


def test_every_route_is_served(worker: LiveWorker) -> None:
    name = worker.ask({"openai_route": "/v1/models"}).output[0]["data"][0]["id"]
    assert worker.ask({"route": f"/v1/models/{name}"}).output[0]["id"] == name
    assert worker.ask({"route": "/health"}).output[0]["status"] == "ok"
    answer = worker.ask(openai(COMPLETIONS, prompt="One, two,", max_tokens=4)).output[0]
    assert answer["usage"]["completion_tokens"] == 4
    ids = worker.ask(openai("/tokenize", prompt="hello world")).output[0]["tokens"]
    assert worker.ask(openai("/detokenize", tokens=ids)).output[0]["text"] == "hello world"
    counted = worker.ask(openai("/v1/tokens", input="hello world")).output[0]
    assert counted == {"prompt_tokens": len(ids)}
    native = {"text": "One, two,", "sampling_params": {"max_new_tokens": 4, "temperature": 0}}
    text = worker.ask(native).output[0]["text"]
    streamed = sse.frames("".join(worker.ask({**native, "stream": True}).output))
    assert streamed[-2]["text"] == text
    refused = worker.result(worker.submit(openai("/v1/embeddings", input="x")))
    assert refused.failure["status"] == 400


def test_concurrent_jobs_are_faster_than_sequential_ones(worker: LiveWorker) -> None:
    began = time.monotonic()
    for _ in range(4):
        worker.ask(story(32))
    one = 4 * 32 / (time.monotonic() - began)
    began = time.monotonic()
    jobs = [worker.submit(story(32)) for _ in range(32)]
    for job in jobs:
        assert worker.result(job).output[0]["usage"]["output"] == 32
    many = 32 * 32 / (time.monotonic() - began)
    print(f"one at a time {one:.0f} tokens/s, 32 at once {many:.0f} tokens/s")
    assert many > 2 * one


def test_a_cancelled_job_frees_the_engine_at_once(worker: LiveWorker) -> None:
    job = worker.submit(story(4000, stream=True))
    worker.when(job, lambda: len(job.pieces) > 1)
    worker.cancel(job)
    deadline = time.monotonic() + allowed(5)
    while (running := worker.ask({"route": "/health"}).output[0]["in_flight"]) > 1:
        assert time.monotonic() < deadline, f"{running} in flight"
    pieces = len(job.pieces)
    worker.ask(story(8))
    assert len(job.pieces) == pieces


def test_the_heartbeat_names_the_running_job(worker: LiveWorker) -> None:
    job = worker.submit(story(4000, stream=True))
    worker.when(job, lambda: job.pieces)
    deadline = time.monotonic() + allowed(10)
    while not any(named == job.id for _, named in worker.platform.pings):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    worker.cancel(job)


def test_sigterm_drains_the_worker(worker: LiveWorker) -> None:
    """The last test of the shared worker."""
    children = worker.children()
    jobs = [worker.submit(story(60, stream=True)) for _ in range(8)]
    for job in jobs:
        worker.when(job, lambda job=job: job.pieces)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(300) == 0
    for job in jobs:
        assert job.status == "COMPLETED"
        assert job.output[-1]["usage"]["output"] == 60
    _, left = psutil.wait_procs(children, timeout=allowed(3))
    assert not left


@pytest.mark.rare
def test_a_lost_engine_fails_the_jobs_and_ends_the_worker(tmp_path: Path) -> None:
    worker = LiveWorker(tmp_path, *MODELS["tiny"](), REFRESH_WORKER="true")
    try:
        job = worker.ready().submit(story(3900, stream=True))
        worker.when(job, lambda: job.pieces)
        engine = next(p for p in worker.children() if "sglang::scheduler" in processes.title(p))
        killed = time.monotonic()
        engine.kill()
        worker.result(job)
        took = time.monotonic() - killed
        print(f"the job failed {took:.2f} s after the engine's end")
        assert job.failure["code"] == "engine_dead"
        assert took < allowed(2)
        assert worker.process.wait(allowed(10)) == 70
    finally:
        worker.stop()


def test_a_worker_without_an_engine_forwards(live: LiveServer, tmp_path: Path) -> None:
    worker = LiveWorker(
        tmp_path, SGLANG_BASE_URL=live.url + "/v1", WARMUP_ON_START="1", REFRESH_WORKER="true"
    )
    try:
        job = worker.ready().submit(
            {"messages": ASK, "max_tokens": 24, "temperature": 0, "stream": True}
        )
        worker.result(job)
        assert "Paris" in sse.text_of(sse.frames("".join(job.output)))
        assert job.stop_pod
        assert worker.process.wait(20) == 0
        assert "warmed up" in worker.log
    finally:
        worker.stop()
