"""A worker on a platform: the SDK's real loop and our handler, over any backend or engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from runpod.serverless.modules import rp_http, rp_job
from runpod.serverless.modules.worker_state import WORKER_ID, JobsProgress

from app.files.opening import files_of
from app.gate import Gate
from app.life.host import ModelHost
from app.lifecycle import Lifecycle, Phase
from app.runpod import sdk
from app.runpod.answer_job import job_answerer
from app.runpod.backend import Backend
from app.runpod.local import LocalBackend
from app.settings.catalogue import Settings
from app.store.opening import store_of
from app.store.store import Store
from app.tracing.opening import tracing_of
from tests.support.runpod_platform import Job, Platform
from tests.support.scripted import ScriptedEngine
from tests.support.serving import settings

HI = [{"role": "user", "content": "hi"}]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def openai(route: str, **body: Any) -> dict[str, Any]:
    """The input that the platform makes of an OpenAI call."""
    return {"openai_route": route, "openai_input": body}


@dataclass
class Station:
    platform: Platform
    gate: Gate
    engine: Any
    loop: sdk.JobLoop
    running: asyncio.Task[None]

    async def ask(self, input: Any, *, completes: bool = True) -> Job:
        job = await self.platform.ask(input)
        assert (job.status == "COMPLETED") is completes, job.error
        return job

    async def stop(self) -> None:
        self.loop.stop_taking()
        async with asyncio.timeout(60):
            await self.running


@contextmanager
def _sdk_pointed_at(platform: Platform) -> Iterator[None]:
    """Patches the URLs that the SDK has read from its variables when it was imported."""
    urls = {name: value.replace("$RUNPOD_POD_ID", WORKER_ID).replace("take/$ID", "take/w")
            for name, value in platform.environment.items()}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rp_job, "JOB_GET_URL", urls["RUNPOD_WEBHOOK_GET_JOB"])
        patch.setattr(rp_http, "JOB_DONE_URL", urls["RUNPOD_WEBHOOK_POST_OUTPUT"])
        patch.setattr(rp_http, "JOB_STREAM_URL", urls["RUNPOD_WEBHOOK_POST_STREAM"])
        patch.setattr(sdk.RunPodLogger, "log", sdk.RunPodLogger.log)
        sdk.log_to_our_log()
        yield
    JobsProgress().clear()


@asynccontextmanager
async def working(
    engine: ScriptedEngine | None = None,
    *,
    backend: Backend | None = None,
    long_poll_s: float = 5.0,
    **variables: str,
) -> AsyncIterator[Station]:
    """A worker that takes jobs, over `engine` or `backend`; `variables` are settings."""
    configured = settings(**variables)
    lifecycle = Lifecycle()
    gate = Gate(lifecycle, max_running=configured.max_concurrency, max_waiting=configured.max_queue)
    store = store_of(configured)
    files = files_of(configured)
    tracing = tracing_of(configured)
    host = _host(configured, lifecycle, gate, engine, store)
    if backend is None:
        await _start(host, lifecycle)
        backend = LocalBackend(configured, lifecycle, gate, host, store, files)
    else:
        lifecycle.enter(Phase.READY)
    async with Platform(long_poll_s=long_poll_s) as platform:
        with _sdk_pointed_at(platform):
            loop = sdk.JobLoop(
                job_answerer(configured, gate, backend, tracing),
                concurrency=configured.max_concurrency,
                refresh=configured.refresh_worker,
            )
            running = asyncio.create_task(loop.run())
            try:
                yield Station(platform, gate, engine, loop, running)
            finally:
                running.cancel()
                await asyncio.wait({running})
                await host.close()
                if store is not None:
                    await store.close()
                if files is not None:
                    await files.close()
                if tracing is not None:
                    await tracing.close()


async def _start(host: ModelHost, lifecycle: Lifecycle) -> None:
    """Wait for the phase and not for a number of seconds: before it is ready, the host collects
    all garbage of this process, which takes seconds where other tests have imported SGLang."""
    changed = asyncio.Event()
    lifecycle.listeners.append(lambda _: changed.set())
    host.start()
    while lifecycle.phase.loading:
        await changed.wait()
        changed.clear()
    assert lifecycle.phase is Phase.READY, lifecycle.reason


def _host(
    configured: Settings,
    lifecycle: Lifecycle,
    gate: Gate,
    engine: ScriptedEngine | None,
    store: Store | None,
) -> ModelHost:
    async def launch(starting: Any) -> Any:
        starting.loading()
        return engine

    tried = store.tried if store is not None else None
    return ModelHost(configured, lifecycle, gate, launch, beside_loading=tried)
