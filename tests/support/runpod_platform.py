"""RunPod's control plane on loopback: one side for a worker, one for callers that send jobs.

    python -m tests.support.runpod_platform [port]

Towards the worker: job-take, job-take-batch, job-stop, job-stream, job-done and ping, as the SDK
(runpod 1.12.0, serverless/modules/) calls them. Towards callers: /run, /runsync, /status, /stream,
/cancel and /openai/v1/..., as in https://docs.runpod.io/serverless/endpoints/operations. How the
platform turns an OpenAI call into a job is known from worker-vllm's handler.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

_ENDED = ("COMPLETED", "FAILED", "CANCELLED")


@dataclass
class Job:
    id: str
    input: Any
    status: str = "IN_QUEUE"
    pieces: list[Any] = field(default_factory=list)
    """The yields, in order."""
    times: list[float] = field(default_factory=list)
    """When each was posted: `time.monotonic()`."""
    sizes: list[int] = field(default_factory=list)
    """Bytes of each, as posted."""
    output: Any = None
    error: str | None = None
    stop_pod: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def notify(self) -> None:
        """Wake the tasks that wait for `changed`."""
        event, self.changed = self.changed, asyncio.Event()
        event.set()

    @property
    def failure(self) -> dict[str, Any]:
        """The error object with which the worker failed the job."""
        assert self.error is not None
        error: dict[str, Any] = json.loads(self.error)["error"]
        return error


class Platform:
    """One endpoint with one worker."""

    def __init__(self, port: int = 0, *, long_poll_s: float = 5.0) -> None:
        self.port = port
        self._long_poll_s = long_poll_s
        self.jobs: dict[str, Job] = {}
        self.pings: list[tuple[float, str | None]] = []
        """Time and job ids of each heartbeat."""
        self.asked_for: list[int] = []
        """How many jobs each of the worker's polls asked for."""
        self.stalled = asyncio.Event()
        """Clear it to keep posts of pieces waiting."""
        self.stalled.set()
        self._queue: deque[Job] = deque()
        self._stops: list[str] = []
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        worker, caller = "/v2/ep", "/v2/ep"
        app.add_routes([
            web.get(worker + "/job-take/{worker}", self._take),
            web.get(worker + "/job-take-batch/{worker}", self._take),
            web.get(worker + "/job-stop/{worker}", self._stop),
            web.post(worker + "/job-stream/{worker}/{job}", self._stream),
            web.post(worker + "/job-done/{worker}/{job}", self._done),
            web.get(worker + "/ping/{worker}", self._ping),
            web.post(caller + "/run", self._run),
            web.post(caller + "/runsync", self._run),
            web.get(caller + "/status/{job}", self._status),
            web.get(caller + "/stream/{job}", self._read_stream),
            web.post(caller + "/cancel/{job}", self._cancel),
            web.route("*", caller + "/openai/{path:.*}", self._openai),
        ])  # fmt: skip
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v2/ep"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that the platform sets; the SDK fills in $ID and $RUNPOD_POD_ID."""
        return {
            "RUNPOD_WEBHOOK_GET_JOB": f"{self.url}/job-take/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{self.url}/job-done/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{self.url}/job-stream/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_PING": f"{self.url}/ping/$RUNPOD_POD_ID",
            "RUNPOD_PING_INTERVAL": "1000",
            "RUNPOD_AI_API_KEY": "local",
            "RUNPOD_POD_ID": "pod1",
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_SKIP_GPU_CHECK": "true",
        }

    # -- called by tests ----------------------------------------------------------------------

    def submit(self, input: Any) -> Job:
        job = Job(uuid.uuid4().hex, input)
        self.jobs[job.id] = job
        self._queue.append(job)
        self._notify()
        return job

    async def result(self, job: Job, *, within_s: float = 60.0) -> Job:
        """Wait until the job has ended."""
        await self.when(job, lambda: job.status in _ENDED, within_s=within_s)
        return job

    async def when(self, job: Job, holds: Any, *, within_s: float = 60.0) -> None:
        """Wait until `holds()`, which must come true before the job has ended."""
        async with asyncio.timeout(within_s):
            while not holds():
                assert job.status not in _ENDED, f"{job.status}: {job.error}"
                await job.changed.wait()

    async def ask(self, input: Any, *, within_s: float = 60.0) -> Job:
        return await self.result(self.submit(input), within_s=within_s)

    def cancel(self, job: Job) -> None:
        job.status = "CANCELLED"
        self._stops.append(job.id)
        job.notify()
        self._notify()

    # -- towards the worker ------------------------------------------------------------------

    def _notify(self) -> None:
        event, self._changed = self._changed, asyncio.Event()
        event.set()

    async def _poll(self, holds: Any) -> None:
        """Hold a long poll open until `holds()`, or until its time is over."""
        try:
            async with asyncio.timeout(self._long_poll_s):
                while not holds():
                    await self._changed.wait()
        except TimeoutError:
            pass

    async def _take(self, request: web.Request) -> web.Response:
        wanted = int(request.query.get("batch_size", "1"))
        self.asked_for.append(wanted)
        await self._poll(lambda: self._queue)
        if _disconnected(request):
            return web.Response(status=204)  # the jobs stay in the queue
        taken = []
        while self._queue and len(taken) < wanted:
            job = self._queue.popleft()
            job.status = "IN_PROGRESS"
            taken.append({"id": job.id, "input": job.input})
        if not taken:
            return web.Response(status=204)
        return web.json_response(taken if "batch_size" in request.query else taken[0])

    async def _stop(self, request: web.Request) -> web.Response:
        await self._poll(lambda: self._stops)
        if _disconnected(request):
            return web.Response(status=204)
        stops, self._stops = self._stops, []
        return web.json_response({"jobsToStop": stops})

    async def _stream(self, request: web.Request) -> web.Response:
        job = self.jobs[request.match_info["job"]]
        body = await request.read()
        await self.stalled.wait()
        job.sizes.append(len(body))
        job.times.append(time.monotonic())
        job.pieces.append(json.loads(body)["output"])
        job.notify()
        return web.Response()

    async def _done(self, request: web.Request) -> web.Response:
        job = self.jobs[request.match_info["job"]]
        result = json.loads(await request.read())
        job.output, job.error = result.get("output"), result.get("error")
        job.stop_pod = bool(result.get("stopPod"))
        if job.status not in _ENDED:
            job.status = "FAILED" if job.error else "COMPLETED"
        job.notify()
        return web.Response()

    async def _ping(self, request: web.Request) -> web.Response:
        self.pings.append((time.monotonic(), request.query.get("job_id")))
        return web.Response()

    # -- towards callers ---------------------------------------------------------------------

    async def _run(self, request: web.Request) -> web.Response:
        job = self.submit((await request.json()).get("input"))
        if request.path.endswith("/runsync"):
            await self.result(job, within_s=300)
        return web.json_response(_state(job))

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response(_state(self.jobs[request.match_info["job"]]))

    async def _read_stream(self, request: web.Request) -> web.Response:
        """The pieces since the last call, once there are any or the job has ended."""
        job = self.jobs[request.match_info["job"]]
        seen = int(request.query.get("seen", "0"))
        await self.when(job, lambda: len(job.pieces) > seen or job.status in _ENDED, within_s=300)
        pieces = [{"output": piece} for piece in job.pieces[seen:]]
        return web.json_response({"status": job.status, "stream": pieces})

    async def _cancel(self, request: web.Request) -> web.Response:
        job = self.jobs[request.match_info["job"]]
        self.cancel(job)
        return web.json_response(_state(job))

    async def _openai(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else {}
        job = self.submit({"openai_route": "/" + request.match_info["path"], "openai_input": body})
        if not body.get("stream"):
            await self.result(job, within_s=300)
            # The real platform answers 200 here, too.
            answer = json.loads(job.error) if job.error else job.output[0]
            return web.json_response(answer)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        sent = 0
        while True:
            for piece in job.pieces[sent:]:
                sent += 1
                await response.write(piece.encode())
            if job.status in _ENDED and sent == len(job.pieces):
                break
            await job.changed.wait()
        if job.error and not sent:
            await response.write(f"data: {job.error}\n\n".encode())
        await response.write_eof()
        return response


def _disconnected(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _state(job: Job) -> dict[str, Any]:
    state = {"id": job.id, "status": job.status, "output": job.output, "error": job.error}
    return {name: value for name, value in state.items() if value is not None}


async def _main(port: int) -> None:
    async with Platform(port) as platform:
        for name, value in platform.environment.items():
            print(f"export {name}='{value}'")
        print(f"# jobs: POST {platform.url}/run or /runsync; OpenAI: {platform.url}/openai/v1")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    try:
        asyncio.run(_main(int(sys.argv[1]) if len(sys.argv) > 1 else 18200))
    except KeyboardInterrupt:
        sys.exit(0)
