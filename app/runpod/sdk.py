"""RunPod's SDK, as far as this worker uses it: fitness checks, heartbeat, job loop.

Written against runpod 1.12.0; tests/runpod/ run its real loop. The SDK reads its own variables
(RUNPOD_WEBHOOK_GET_JOB, RUNPOD_AI_API_KEY, ...) when it is imported, so this module is imported by
`worker.run` alone.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import aiohttp
from runpod.http_client import AsyncClientSession, TooManyRequests
from runpod.serverless.modules import rp_job, rp_ping
from runpod.serverless.modules.rp_fitness import run_fitness_checks
from runpod.serverless.modules.rp_logger import RunPodLogger
from runpod.serverless.modules.rp_scale import JobScaler
from runpod.serverless.modules.worker_state import IS_LOCAL_TEST, JobsProgress, PingJobMirror

from app import signals
from app.errors import ConfigError, StartError
from app.life.waiting import first_of
from app.logs.setup import log
from app.runpod.answer_job import JobAnswerer

_PAUSE_S = 1.0
"""Between two polls for jobs, after a poll that failed or returned no job at once."""
_AT_ONCE_S = 0.2
_LAST_POLL_S = 0.5
_BUSY_PAUSE_S = 5.0
_MESSAGE_CHARS = 2000
_PR_SET_PDEATHSIG = 1
_LEVELS = {"ERROR": log.error, "WARN": log.warning}


def check_platform() -> None:
    """Raises ConfigError outside of RunPod."""
    if IS_LOCAL_TEST or not rp_job.JOB_GET_URL:
        raise ConfigError(
            "RUNPOD_WEBHOOK_GET_JOB is not set: this mode runs as a worker on RunPod serverless, "
            "which sets it. To try it elsewhere: docs/runpod.md, 'Without RunPod'"
        )


def log_to_our_log() -> None:
    """Send the SDK's messages to our log instead of stdout. Those on single jobs repeat our own
    lines, so they appear only at LOG_LEVEL=debug."""

    def write(_: Any, message: object, level: str = "INFO", job_id: str | None = None) -> None:
        fields = {"job": job_id} if job_id else {}
        _LEVELS.get(level, log.debug)(f"runpod: {str(message)[:_MESSAGE_CHARS]}", **fields)

    RunPodLogger.log = write


# -- child processes ---------------------------------------------------------------------------


def check_fitness() -> None:
    """Run the SDK's checks of memory, disk, network and GPU, which it reports to the platform.

    They run in a child process: they initialise CUDA, and its memory is freed only at a process's
    end.
    Raises StartError.
    """
    child = _fork(lambda: asyncio.run(run_fitness_checks()))
    _, status = os.waitpid(child, 0)
    if status != 0:
        raise StartError("this machine failed a fitness check; the lines above say which")


class Heartbeat:
    """A child process that reports to the platform that this worker lives, and its jobs.

    It must not outlive this process: a worker that seems alive keeps its jobs. It is forked before
    there is an event loop, a thread or an engine.
    """

    def __init__(self) -> None:
        self._pid: int | None = None

    def start(self) -> None:
        """Does nothing without the platform's address and key."""
        known = rp_ping.Heartbeat()
        if "NOT_SET" in known.PING_URL or not known._session.headers.get("Authorization"):
            log.warning("no heartbeat: RUNPOD_WEBHOOK_PING or RUNPOD_AI_API_KEY is not set")
            return
        mirror = PingJobMirror()
        JobsProgress().set_mirror(mirror)
        self._pid = _fork(lambda: rp_ping.Heartbeat.process_loop(mirror))

    def stop(self) -> None:
        pid, self._pid = self._pid, None
        if pid is not None:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _fork(work: Callable[[], None]) -> int:
    """Run `work` in a child that is killed when this process ends, and that ignores the signals
    that end this process."""
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            signals.ignore_all()
            RunPodLogger.log = _print_from_child
            work()
            code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _print_from_child(_: Any, message: object, level: str = "INFO", job_id: object = None) -> None:
    """The log's writer thread does not exist in a forked child, so print."""
    if level in _LEVELS:
        print(f"runpod: {message}", file=sys.stderr, flush=True)


# -- the loop ----------------------------------------------------------------------------------


class JobLoop(JobScaler):  # type: ignore[misc]
    """The SDK's loop, with three differences: the number of concurrent jobs is constant, its end
    does not wait for long polls, and jobs start as soon as they arrive, not up to 0.1 s later."""

    def __init__(self, answer_job: JobAnswerer, *, concurrency: int, refresh: bool) -> None:
        super().__init__(
            {
                "handler": answer_job,
                "return_aggregate_stream": True,
                "refresh_worker": refresh,
                "concurrency_modifier": lambda _: concurrency,
                "rp_args": {},
            }
        )
        # The SDK begins with a queue of length 1, and replaces it only while no job runs.
        self.current_concurrency = concurrency
        self.jobs_queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(maxsize=concurrency)
        self.jobs_fetcher = self._take

    def stop_taking(self) -> None:
        """Let `run` end once the jobs that were taken have ended."""
        self.kill_worker()

    async def run(self) -> None:
        """Take jobs until `stop_taking`, or (with REFRESH_WORKER) until the first job ends; then
        wait until every taken job is answered. Cancelling this abandons unposted results."""
        async with AsyncClientSession() as session:
            taking = asyncio.create_task(self.get_jobs(session), name="take")
            running = asyncio.create_task(self.run_jobs(session), name="run")
            stopping = asyncio.create_task(self.monitor_stop_signals(session), name="stop")
            try:
                await first_of(self._shutdown_event.wait(), taking, running)
                for task in (taking, running):
                    if task.done():
                        task.result()  # raises its error, if it failed
                # Wait for the last poll: a job that is being delivered would be lost.
                await asyncio.wait({taking}, timeout=_LAST_POLL_S)
                taking.cancel()
                await asyncio.wait({taking})
                await self.jobs_queue.join()
            finally:
                remaining = {taking, running, stopping, *self.jobs_tasks.values()}
                for task in remaining:
                    task.cancel()
                await asyncio.wait(remaining)

    async def run_jobs(self, session: aiohttp.ClientSession) -> None:
        while True:
            job = await self.jobs_queue.get()
            task = asyncio.create_task(self.handle_job(session, job))
            self.jobs_tasks[job["id"]] = task
            task.add_done_callback(_retrieve_error)

    async def monitor_stop_signals(self, session: aiohttp.ClientSession) -> None:
        """Stop the jobs that the platform wants stopped, until this is cancelled. The SDK's own
        method ends with the taking of jobs, so during a drain it would stop none."""
        while rp_job._job_stop_url() is not None:
            try:
                stopped = await rp_job.get_stop_signals(session)
            except TooManyRequests:
                await asyncio.sleep(_BUSY_PAUSE_S)
                continue
            except (aiohttp.ClientError, OSError) as error:
                log.debug("runpod: cannot ask for stopped jobs", error=repr(error))
                stopped = []
            for job_id in stopped:
                await self.stop_job(job_id)
            if not stopped:
                await asyncio.sleep(_PAUSE_S)

    async def _take(self, session: aiohttp.ClientSession, places: int) -> Any:
        """Poll for jobs. The SDK polls again without a pause, so pause here."""
        began = time.monotonic()
        try:
            jobs = await rp_job.get_job(session, places)
        except TooManyRequests:
            raise  # the SDK pauses after this error
        except (aiohttp.ClientError, OSError):
            await asyncio.sleep(_PAUSE_S)
            raise
        if not jobs and time.monotonic() - began < _AT_ONCE_S:
            await asyncio.sleep(_PAUSE_S)
        return jobs


def _retrieve_error(task: asyncio.Task[None]) -> None:
    """Avoid asyncio's warning about an error that is not retrieved: the SDK has logged it."""
    if not task.cancelled():
        task.exception()
