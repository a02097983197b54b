"""The worker process: RunPod's jobs instead of HTTP requests, over the same model.

    fitness checks ─ heartbeat ─ model loaded, warm ─ take jobs ── drain ── exit

SIGTERM, SIGINT ─> no new jobs, those inside may finish ─> engine down ─> exit 0
a second one    ─> out now (128 + signal)
REFRESH_WORKER  ─> the same as SIGTERM after the first job
engine lost     ─> jobs inside fail with an error ─> exit 70
start failed    ─> exit 71, or 78 for a wrong setting

A job that was taken is answered. So during a drain the gate stays open, and the lifecycle ready:
there is nobody outside who could see it.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import uvloop

from app.errors import ConfigError, Draining, EngineDied
from app.gate import Gate
from app.life.ending import exit_now, first_of
from app.life.host import Launch, ModelHost, exit_code
from app.lifecycle import Lifecycle, Phase
from app.logs.setup import log
from app.runpod.answer_job import handler
from app.runpod.local import LocalBackend
from app.runpod.upstream import UpstreamBackend
from app.settings.catalogue import Settings, hidden

if TYPE_CHECKING:
    from app.runpod.sdk import JobLoop

_ANSWER_THE_LOST_S = 1.5
_CUT_OFF_S = 3.0


def run(settings: Settings, launch: Launch, cleanup: Callable[[], None]) -> int:
    """Work until the end; returns the exit code. `cleanup` runs before a forced exit, too."""
    try:
        from app.runpod import sdk
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the runpod mode needs the package {error.name}: pip install -r "
            "requirements-runpod.txt"
        ) from None
    sdk.check_platform()
    sdk.log_as_we_do()
    sdk.check_fitness()
    heartbeat = sdk.Heartbeat()
    heartbeat.start()

    def clean_up() -> None:
        heartbeat.stop()
        cleanup()

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(Worker(settings, launch, clean_up).work())
    finally:
        heartbeat.stop()


class Worker:
    def __init__(self, settings: Settings, launch: Launch, cleanup: Callable[[], None]) -> None:
        self._settings = settings
        self._cleanup = cleanup
        self._lifecycle = Lifecycle()
        self._gate = Gate(
            self._lifecycle, max_running=settings.max_concurrency, max_waiting=settings.max_queue
        )
        self._host = ModelHost(settings, self._lifecycle, self._gate, launch)
        self._ready = asyncio.Event()
        self._asked = asyncio.Event()
        self._signals = 0

    async def work(self) -> int:
        self._lifecycle.listeners.append(self._note_ready)
        self._take_signals()
        upstream = UpstreamBackend(self._settings) if self._settings.upstream_url else None
        starting = asyncio.create_task(self._start(upstream), name="start")
        await first_of(self._ready.wait(), self._asked.wait(), self._lifecycle.over.wait())
        self._leave_if_over()
        if not self._ready.is_set():
            log.info("stopped before the worker was ready")
            exit_now(0, self._cleanup)
        await starting
        backend = upstream or LocalBackend(self._settings, self._lifecycle, self._gate, self._host)
        await self._take_jobs(self._job_loop(backend))
        self._leave_if_over()
        await (upstream.close() if upstream else self._host.close())
        self._lifecycle.enter(Phase.STOPPED)
        log.info("stopped", uptime_s=round(self._lifecycle.uptime_s, 1))
        return 0

    async def _start(self, upstream: UpstreamBackend | None) -> None:
        if upstream is None:
            self._host.start()
            return
        log.info("forwarding jobs", to=hidden(self._settings.upstream_url or ""))
        if self._settings.warmup_on_start:
            await upstream.warm_up()
        self._lifecycle.enter(Phase.READY)

    def _job_loop(self, backend: LocalBackend | UpstreamBackend) -> JobLoop:
        from app.runpod.sdk import JobLoop

        return JobLoop(
            handler(self._settings, self._gate, backend),
            # A fresh worker for each job: the platform may end this one with the first result.
            concurrency=1 if self._settings.refresh_worker else self._settings.max_concurrency,
            refresh=self._settings.refresh_worker,
        )

    async def _take_jobs(self, loop: JobLoop) -> None:
        """Until a signal, the engine's end, or the end of a job that was to be the only one."""
        log.info("taking jobs", at_a_time=self._settings.max_concurrency)
        running = asyncio.create_task(loop.run(), name="jobs")
        await first_of(self._asked.wait(), self._lifecycle.over.wait(), running)
        loop.stop_taking()
        if not self._lifecycle.ended:
            await first_of(
                asyncio.wait({running}, timeout=self._settings.drain_timeout_s),
                self._lifecycle.over.wait(),
            )
        if self._lifecycle.ended:
            self._gate.end_all(lambda: EngineDied("The engine has ended; please try again."))
            await asyncio.wait({running}, timeout=_ANSWER_THE_LOST_S)
        elif not running.done():
            cut = self._gate.end_all(
                lambda: Draining("This worker is shutting down and could not wait any longer.")
            )
            log.warning("drain timeout: the rest is cut off", jobs=cut)
            await asyncio.wait({running}, timeout=_CUT_OFF_S)
        if running.done():
            running.result()
        else:
            log.error("some results could not be delivered in time")
            running.cancel()
            await asyncio.wait({running})

    def _leave_if_over(self) -> None:
        """A lost engine cannot be asked to end, a start that hangs cannot be waited for."""
        if self._lifecycle.ended:
            code = exit_code(self._lifecycle, self._host)
            log.error("exiting", reason=self._lifecycle.reason, code=code)
            exit_now(code, self._cleanup)

    # -- signals -----------------------------------------------------------------------------

    def _note_ready(self, phase: Phase) -> None:
        if phase is Phase.READY:
            self._ready.set()

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_end, number)
        # SGLang's children send it when they fail; left to itself it means a core dump. That they
        # have ended is seen directly (engine/sglang/launch.py: Watch).
        loop.add_signal_handler(signal.SIGQUIT, log.error, "an engine process reports a failure")

    def _asked_to_end(self, number: signal.Signals) -> None:
        self._signals += 1
        if self._signals > 1:
            log.warning("second signal: exiting at once", signal=number.name)
            exit_now(128 + number, self._cleanup)
        log.info(
            "draining", signal=number.name, in_flight=self._gate.in_flight,
            timeout_s=self._settings.drain_timeout_s,
        )  # fmt: skip
        self._asked.set()
