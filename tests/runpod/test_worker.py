"""The worker as a process: how it starts, drains and dies."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.processes import alive
from tests.support.runpod_platform import Platform
from tests.support.serving import HANGS_S, eventually

ROOT = Path(__file__).parents[2]
STORY = {"prompt": "x", "stream": True}


class Process:
    def __init__(self, process: asyncio.subprocess.Process, platform: Platform, out: Path) -> None:
        self.process, self.platform, self._out = process, platform, out

    @property
    def log(self) -> str:
        return self._out.read_text()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def exit_code(self, within_s: float = HANGS_S) -> int:
        async with asyncio.timeout(within_s):
            return await self.process.wait()

    def heartbeat(self) -> psutil.Process:
        (child,) = psutil.Process(self.process.pid).children()
        return child


@asynccontextmanager
async def process(
    tmp_path: Path, *, long_poll_s: float = 5.0, **env: str
) -> AsyncIterator[Process]:
    async with Platform(long_poll_s=long_poll_s) as platform:
        out = tmp_path / "out.log"
        with out.open("wb") as file:
            started = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.runpod.scripted_worker",
                cwd=ROOT, stdout=file, stderr=file,
                env={**os.environ, "LOG_FILE": "", "HOME": str(tmp_path), "PYTHONWARNINGS": "error",
                     "MAX_CONCURRENCY": "4", **platform.environment, **env},
            )  # fmt: skip
        try:
            yield Process(started, platform, out)
        finally:
            if started.returncode is None:
                started.kill()
                await started.wait()


async def taking(worker: Process) -> None:
    await eventually(lambda: worker.platform.asked_for != [])


async def test_sigterm_lets_in_flight_jobs_finish(tmp_path: Path) -> None:
    async with process(tmp_path, TEST_WORDS="20", JOB_OUTPUT="classic") as worker:
        job = worker.platform.submit(STORY)
        await worker.platform.when(job, lambda: job.pieces)
        assert worker.platform.asked_for[0] == 4
        worker.signal(signal.SIGTERM)
        await eventually(lambda: "draining" in worker.log)
        late = worker.platform.submit(STORY)
        assert await worker.exit_code() == 0
        words = [word for piece in job.output for word in piece["choices"][0]["tokens"]]
        assert (job.status, len(words)) == ("COMPLETED", 20)
        assert late.status in ("COMPLETED", "IN_QUEUE"), "taken in the last poll, and lost"
        assert "engine closed" in worker.log


async def test_jobs_that_outlast_the_drain_timeout_fail_with_an_error(tmp_path: Path) -> None:
    async with process(tmp_path, DRAIN_TIMEOUT="0.3") as worker:
        jobs = [worker.platform.submit(STORY), worker.platform.submit({"prompt": "x"})]
        await worker.platform.when(jobs[0], lambda: jobs[0].pieces)
        worker.signal(signal.SIGTERM)
        assert await worker.exit_code() == 0
        for job in jobs:
            assert job.failure["code"] == "server_shutting_down"
        assert "engine closed" in worker.log


async def test_an_idle_worker_exits_without_waiting_for_its_long_polls(tmp_path: Path) -> None:
    async with process(tmp_path, long_poll_s=3600, DRAIN_TIMEOUT="600") as worker:
        await taking(worker)
        await eventually(lambda: worker.platform.pings != [])
        heartbeat = worker.heartbeat()
        worker.signal(signal.SIGTERM)
        assert await worker.exit_code() == 0
        assert not heartbeat.is_running()


async def test_a_second_signal_ends_the_worker_at_once(tmp_path: Path) -> None:
    async with process(tmp_path) as worker:
        job = worker.platform.submit(STORY)
        await worker.platform.when(job, lambda: job.pieces)
        worker.signal(signal.SIGTERM)
        await eventually(lambda: "draining" in worker.log)
        worker.signal(signal.SIGTERM)
        assert await worker.exit_code() == 128 + signal.SIGTERM
        assert "cleaned up" in worker.log


async def test_a_dead_engine_fails_the_jobs_and_ends_the_worker(tmp_path: Path) -> None:
    async with process(tmp_path) as worker:
        jobs = [worker.platform.submit(STORY) for _ in range(3)]
        await worker.platform.when(jobs[0], lambda: jobs[0].pieces)
        jobs.append(worker.platform.submit({"prompt": "die"}))
        assert await worker.exit_code() == 70
        for job in jobs:
            assert job.failure["code"] == "engine_dead"


async def test_the_heartbeat_names_the_jobs_and_does_not_outlive_the_worker(tmp_path: Path) -> None:
    async with process(tmp_path) as worker:
        job = worker.platform.submit(STORY)
        await eventually(lambda: any(job.id == named for _, named in worker.platform.pings))
        heartbeat = worker.heartbeat()
        worker.signal(signal.SIGKILL)
        await worker.exit_code()
        await eventually(lambda: not alive(heartbeat))


async def test_no_job_is_taken_before_the_model_is_ready(tmp_path: Path) -> None:
    async with process(tmp_path, TEST_LAUNCH="hangs") as worker:
        worker.platform.submit(STORY)
        await eventually(lambda: worker.platform.pings != [])
        await eventually(lambda: '"phase":"loading"' in worker.log)
        assert worker.platform.asked_for == []
        worker.signal(signal.SIGTERM)
        assert await worker.exit_code() == 0


@pytest.mark.parametrize(
    ("env", "code", "message"),
    [
        ({"TEST_LAUNCH": "fails"}, 71, "no such model"),
        ({"RUNPOD_WEBHOOK_GET_JOB": ""}, 78, "RUNPOD_WEBHOOK_GET_JOB"),
    ],
)
async def test_a_failed_start_has_its_own_exit_code(
    tmp_path: Path, env: dict[str, Any], code: int, message: str
) -> None:
    async with process(tmp_path, **env) as worker:
        assert await worker.exit_code() == code
        assert message in worker.log


async def test_with_refresh_worker_the_worker_exits_after_one_job(tmp_path: Path) -> None:
    async with process(tmp_path, REFRESH_WORKER="true") as worker:
        job = await worker.platform.ask({"prompt": "x", "max_tokens": 0, "echo": True})
        assert (job.status, job.stop_pod) == ("COMPLETED", True)
        assert await worker.exit_code() == 0
        assert "engine closed" in worker.log
