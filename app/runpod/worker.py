"""The worker process: answers RunPod's jobs instead of HTTP requests, with the same model.

    fitness checks ─ heartbeat ─ model loaded, warm ─ take jobs ── drain ── exit

Its life is that of life/service.py, with two differences. With REFRESH_WORKER it ends after its
first job. And every job that was taken is answered, so during a drain the gate stays open and the
phase `ready`, which no client can see.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from app.errors import ConfigError, ServeError
from app.life.control import LocalControl
from app.life.host import Launch
from app.life.ready import announce_when_ready
from app.life.service import Service, live
from app.life.waiting import first_of
from app.lifecycle import Phase
from app.logs.setup import log
from app.loop import run_loop
from app.runpod.answer_job import job_answerer
from app.runpod.local import LocalBackend
from app.runpod.upstream import UpstreamBackend
from app.settings.catalogue import Settings
from app.settings.secrets import hidden

if TYPE_CHECKING:
    from app.runpod.sdk import JobLoop


def run(settings: Settings, launch: Launch, cleanup: Callable[[], None]) -> int:
    """Take jobs until the end; returns the exit code. `cleanup` runs before a forced exit, too."""
    try:
        from app.runpod import sdk
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the runpod mode needs the package {error.name}: pip install -r "
            "requirements/runpod.txt"
        ) from None
    sdk.check_platform()
    sdk.log_to_our_log()
    sdk.check_fitness()
    heartbeat = sdk.Heartbeat()
    heartbeat.start()

    def clean_up() -> None:
        heartbeat.stop()
        cleanup()

    async def work() -> int:
        service = Service(settings, launch, LocalControl(settings, clean_up), clean_up)
        return await live(Worker(service), service)

    try:
        return run_loop(work())
    finally:
        heartbeat.stop()


class Worker:
    """`Work` of a RunPod worker: the SDK's jobs."""

    extra_drain_s = 0.0
    extra_answers_s = 0.0

    def __init__(self, service: Service) -> None:
        self._service = service
        self._settings = service.settings
        self._upstream = UpstreamBackend(self._settings) if self._settings.upstream_url else None
        self._ready, self._stopping = asyncio.Event(), asyncio.Event()
        self._loop: JobLoop | None = None

    @property
    def closable(self) -> bool:
        return self._ready.is_set()

    async def start(self) -> asyncio.Task[None]:
        self._service.lifecycle.listeners.append(self._note_ready)
        upstream = self._settings.upstream_url
        announce_when_ready(self._service, None, upstream=upstream and hidden(upstream))
        if self._upstream is None:
            self._service.host.start()
        self._running = asyncio.create_task(self._take_jobs(), name="jobs")
        return self._running

    def stop_taking(self) -> None:
        self._stopping.set()
        if self._loop is not None:
            self._loop.stop_taking()

    async def drained(self) -> None:
        await asyncio.wait({self._running})

    def fail_rest(self, error: Callable[[], ServeError]) -> int:
        return self._service.gate.end_all(error)

    async def close(self) -> None:
        if not self._running.done():
            log.error("some results could not be delivered in time")
            self._running.cancel()
            await asyncio.wait({self._running})
        await (self._upstream.close() if self._upstream else self._service.host.close())

    async def _take_jobs(self) -> None:
        """Take jobs until `stop_taking`, or (with REFRESH_WORKER) until the first job ends."""
        if self._upstream is not None:
            await self._connect(self._upstream)
        await first_of(self._ready.wait(), self._stopping.wait())
        if self._stopping.is_set():
            return
        self._loop = self._job_loop()
        log.info("taking jobs", at_a_time=self._settings.max_concurrency)
        await self._loop.run()
        await self._service.gate.wait_idle()  # responses in the background

    async def _connect(self, upstream: UpstreamBackend) -> None:
        log.info("forwarding jobs", to=hidden(self._settings.upstream_url or ""))
        if self._settings.warmup_on_start:
            await upstream.warm_up()
        self._service.lifecycle.enter(Phase.READY)

    def _job_loop(self) -> JobLoop:
        from app.runpod.sdk import JobLoop

        service, settings = self._service, self._settings
        backend = self._upstream or LocalBackend(
            settings,
            service.lifecycle,
            service.gate,
            service.host,
            service.store,
            service.files,
        )
        return JobLoop(
            job_answerer(settings, service.gate, backend, service.tracing),
            # With REFRESH_WORKER the platform may end this worker with the first result.
            concurrency=1 if settings.refresh_worker else settings.max_concurrency,
            refresh=settings.refresh_worker,
        )

    def _note_ready(self, phase: Phase) -> None:
        if phase is Phase.READY:
            self._ready.set()
