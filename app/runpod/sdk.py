"""RunPod's SDK, as far as it is used: fitness checks, heartbeat, the loop that takes jobs.

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
from runpod.http_client import (
    AsyncClientSession,
    TooManyRequests,
)
from runpod.serverless.modules import rp_job, rp_ping
from runpod.serverless.modules.rp_fitness import (
    run_fitness_checks,
)
from runpod.serverless.modules.rp_logger import RunPodLogger
from runpod.serverless.modules.rp_scale import JobScaler
from runpod.serverless.modules.worker_state import (
    IS_LOCAL_TEST,
    JobsProgress,
    PingJobMirror,
)

from app.errors import ConfigError, StartError
from app.life.waiting import first_of
from app.logs.setup import log
from app.runpod.answer_job import Handler

_PAUSE_S = 1.0
"""Between two questions for jobs, after one that failed or was answered with nothing at once."""
_AT_ONCE_S = 0.2
_LAST_POLL_S = 0.5
_BUSY_PAUSE_S = 5.0
_SAID_CHARS = 2000
_PR_SET_PDEATHSIG = 1
_LEVELS = {"ERROR": log.error, "WARN": log.warning}


def check_platform() -> None:
    """Raises ConfigError outside of RunPod."""
    if IS_LOCAL_TEST or not rp_job.JOB_GET_URL:
        raise ConfigError(
            "RUNPOD_WEBHOOK_GET_JOB is not set: this mode runs as a worker on RunPod serverless, "
            "which sets it. To try it elsewhere: docs/runpod.md, 'Without RunPod'"
        )


def log_as_we_do() -> None:
    """The SDK prints; have it go into our log. What it says of each job, our own lines say better:
    that is kept for LOG_LEVEL=debug."""

    def say(_: Any, message: object, level: str = "INFO", job_id: str | None = None) -> None:
        about = {"job": job_id} if job_id else {}
        _LEVELS.get(level, log.debug)(f"runpod: {str(message)[:_SAID_CHARS]}", **about)

    RunPodLogger.log = say


# -- child processes ---------------------------------------------------------------------------


def check_fitness() -> None:
    """Run the SDK's checks of memory, disk, network and GPU; it tells the platform what fails.

    In a process of its own: they initialise CUDA, which would take memory from the engine for good.
    Raises StartError.
    """
    child = _fork(lambda: asyncio.run(run_fitness_checks()))
    _, status = os.waitpid(child, 0)
    if status != 0:
        raise StartError("this machine failed a fitness check; the lines above say which")


class Heartbeat:
    """Tells the platform, from a process of its own, that this one lives and on what it works.

    It must not outlive us: a worker that seems alive keeps its jobs. Forked before there is an
    event loop, a thread or an engine.
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
    """Run it in a child that ends with us, by SIGKILL, and by nothing that is meant for us."""
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            RunPodLogger.log = _say_from_a_child
            work()
            code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _say_from_a_child(_: Any, message: object, level: str = "INFO", job_id: object = None) -> None:
    """Our log's writer thread is not here."""
    if level in _LEVELS:
        print(f"runpod: {message}", file=sys.stderr, flush=True)


# -- the loop ----------------------------------------------------------------------------------


class JobLoop(JobScaler):  # type: ignore[misc]
    """The SDK's loop with a constant number of jobs, an end that does not wait for its long polls,
    and jobs that start when they come, not at the next tenth of a second."""

    def __init__(self, handler: Handler, *, concurrency: int, refresh: bool) -> None:
        super().__init__(
            {
                "handler": handler,
                "return_aggregate_stream": True,
                "refresh_worker": refresh,
                "concurrency_modifier": lambda _: concurrency,
                "rp_args": {},
            }
        )
        # The SDK begins with a queue of one place, and makes another only once no job runs.
        self.current_concurrency = concurrency
        self.jobs_queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(maxsize=concurrency)
        self.jobs_fetcher = self._take

    def stop_taking(self) -> None:
        """Let `run` end once the jobs inside have."""
        self.kill_worker()

    async def run(self) -> None:
        """Until `stop_taking`, or the first job's end if the worker shall be fresh for each; then
        until every job that was taken is answered. Cancelling it gives up the posting."""
        async with AsyncClientSession() as session:
            taking = asyncio.create_task(self.get_jobs(session), name="take")
            running = asyncio.create_task(self.run_jobs(session), name="run")
            stopping = asyncio.create_task(self.monitor_stop_signals(session), name="stop")
            try:
                await first_of(self._shutdown_event.wait(), taking, running)
                for task in (taking, running):
                    if task.done():
                        task.result()  # it never ends by itself
                # A job that is on its way to us would be nobody's.
                await asyncio.wait({taking}, timeout=_LAST_POLL_S)
                taking.cancel()
                await asyncio.wait({taking})
                await self.jobs_queue.join()
            finally:
                left = {taking, running, stopping, *self.jobs_tasks.values()}
                for task in left:
                    task.cancel()
                await asyncio.wait(left)

    async def run_jobs(self, session: aiohttp.ClientSession) -> None:
        while True:
            job = await self.jobs_queue.get()
            task = asyncio.create_task(self.handle_job(session, job))
            self.jobs_tasks[job["id"]] = task
            task.add_done_callback(_look_at)

    async def monitor_stop_signals(self, session: aiohttp.ClientSession) -> None:
        """Until cancelled: the SDK's own stops listening when it stops taking, and a job that is
        stopped during a drain would go on."""
        while rp_job._job_stop_url() is not None:
            try:
                stopped = await rp_job.get_stop_signals(session)
            except TooManyRequests:
                await asyncio.sleep(_BUSY_PAUSE_S)
                continue
            except (aiohttp.ClientError, OSError) as error:
                log.debug("runpod: cannot hear of stopped jobs", error=repr(error))
                stopped = []
            for job_id in stopped:
                await self.stop_job(job_id)
            if not stopped:
                await asyncio.sleep(_PAUSE_S)

    async def _take(self, session: aiohttp.ClientSession, places: int) -> Any:
        """The SDK asks again without a pause, whatever the answer was."""
        asked = time.monotonic()
        try:
            jobs = await rp_job.get_job(session, places)
        except TooManyRequests:
            raise  # the SDK waits by itself
        except (aiohttp.ClientError, OSError):
            await asyncio.sleep(_PAUSE_S)
            raise
        if not jobs and time.monotonic() - asked < _AT_ONCE_S:
            await asyncio.sleep(_PAUSE_S)
        return jobs


def _look_at(task: asyncio.Task[None]) -> None:
    """The SDK has logged what there was to say."""
    if not task.cancelled():
        task.exception()
