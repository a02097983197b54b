"""The life of a process that serves: start, wait, drain, fail the rest, close.

    work.start ─ wait for a signal or the engine's end ─ control.leave ─ work.stop_taking
               ─ work.drained ─ (timeout: work.fail_rest) ─ control.drained ─ work.close ─ exit 0

SIGTERM, SIGINT   these steps; exit 0
a second signal   exit at once: 128 + signal (control.py)
engine lost       in-flight requests fail with an error; exit 70
engine hangs      the same; exit 73
start failed      exit 71, or 78 for a wrong setting

`Work` is what differs between HTTP (web/server.py), RunPod's jobs (runpod/worker.py) and the parent
of several processes (workers/parent.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from app import metric_files
from app.awake import AWAKE
from app.errors import Draining, EngineDied, ServeError, StartError
from app.files.opening import files_of
from app.gate import Gate
from app.life.control import Control
from app.life.ending import exit_now
from app.life.host import AllWarm, Launch, ModelHost
from app.life.notify import Notifier
from app.life.sleep import Sleep
from app.life.waiting import first_of
from app.lifecycle import Lifecycle, Phase
from app.logs.setup import log
from app.settings.catalogue import Settings
from app.stats import LocalGauges, LoopLag
from app.store.opening import store_of
from app.tracing.opening import tracing_of

_FAILED_ANSWERS_S = 3.0
"""Time for clients to receive the error that ended their request, after the drain timed out."""
_LOST_ENGINE_ANSWERS_S = 1.5
"""The same, after the engine was lost."""


class Service:
    """The parts of one process: its phase, its gate, its model, and what controls it."""

    def __init__(
        self,
        settings: Settings,
        launch: Launch,
        control: Control,
        cleanup: Callable[[], None],
        *,
        admits: bool = True,
        all_warm: AllWarm | None = None,
    ) -> None:
        """`cleanup` runs before a forced exit, too. `admits`: this process serves requests itself.
        `all_warm` returns once every serving process has generated a token."""
        self.settings = settings
        self.control = control
        self.cleanup = cleanup
        self.lifecycle = Lifecycle()
        peers = control.peers
        processes = peers.count if peers is not None else 1
        self.gate = Gate(
            self.lifecycle,
            max_running=-(-settings.max_concurrency // processes) if admits else 0,
            max_waiting=-(-settings.max_queue // processes) if admits else 0,
            max_share=settings.max_sequences_per_request,
            max_arriving=settings.max_arriving_bodies,
            max_arriving_bytes=max(
                settings.max_arriving_bytes, settings.most_body_bytes(pictures=settings.images)
            ),
            max_bytes=settings.max_request_bytes,
            longest_s=settings.request_timeout_s,
        )
        if peers is not None:
            all_warm = peers.all_warm
        self.store = store_of(settings) if admits and settings.upstream_url is None else None
        """What has been answered; None: nothing is kept."""
        self.files = files_of(settings) if admits and settings.upstream_url is None else None
        """What clients have uploaded; None: they cannot."""
        self.tracing = tracing_of(settings) if admits else None
        """None: requests have no spans."""
        self.host = ModelHost(
            settings,
            self.lifecycle,
            self.gate,
            launch,
            all_warm,
            # Not earlier: SQLAlchemy's import would slow those of the engine.
            beside_loading=None if settings.node_rank else self._stores_tried,
            quiet=peers is not None,
        )
        self.sleep = Sleep(
            self.lifecycle,
            self.gate,
            waits=settings.sleeping_requests == "wait",
            alone=peers is None,
        )
        self.lag = LoopLag()
        self.gauges = LocalGauges(self.gate, self.lag, self.host.silent_s, metric_files.series_lost)
        """Of this process alone."""
        if peers is not None:
            self.host.shortest_silence_s = lambda: peers.gauges().shortest_silence_s

    async def _stores_tried(self) -> None:
        """Returns once the first attempts to open the databases have ended, well or not."""
        for each in (self.store, self.files):
            if each is not None:
                await each.tried()


class Work(Protocol):
    """What a process serves: HTTP, jobs, or other processes."""

    extra_drain_s: float
    """Added to DRAIN_TIMEOUT."""
    extra_answers_s: float
    """Added to the time for the answers of failed requests, above."""

    @property
    def closable(self) -> bool:
        """False while the start may hang in another library: exit then without closing."""

    async def start(self) -> asyncio.Task[None]:
        """Begin. The task ends when the work ends by itself."""

    def stop_taking(self) -> None:
        """Take no new requests; in-flight requests continue."""

    async def drained(self) -> None:
        """Return once no request is in flight."""

    def fail_rest(self, error: Callable[[], ServeError]) -> int:
        """End in-flight requests with an error; returns how many."""

    async def close(self) -> None:
        """End the engine and everything else that was started. No request is in flight."""


async def live(work: Work, service: Service) -> int:
    """Serve until the end; returns the exit code, unless the process has to exit at once."""
    lifecycle, control = service.lifecycle, service.control
    AWAKE.start()
    notifier = None
    if control.peers is None:  # of several processes the parent notifies
        extra_s = work.extra_drain_s + work.extra_answers_s + _FAILED_ANSWERS_S
        notifier = Notifier.of(service.settings, lifecycle, extra_end_s=extra_s)
    telling = asyncio.create_task(notifier.run()) if notifier is not None else None
    await control.open(lifecycle, service.gate)
    running = await work.start()
    await first_of(running, control.requested.wait(), lifecycle.over.wait())
    if not running.done():
        await control.leave()
        work.stop_taking()
        await _drain(work, service)
    if lifecycle.ended:
        # A lost engine cannot be closed, and a start that hangs cannot be awaited.
        code = exit_code(lifecycle, service.host)
        log.error("exiting", reason=lifecycle.reason, code=code)
        if service.tracing is not None:  # the requests that it ended have spans
            await service.tracing.close()
        exit_now(code, service.cleanup)
    if running.done() and not running.cancelled() and (error := running.exception()) is not None:
        log.error("the server failed", error=repr(error), exc_info=error)
        exit_now(StartError.exit_code, service.cleanup)
    if not work.closable:
        log.info("stopped before the model was loaded")
        exit_now(0, service.cleanup)
    await work.close()
    if service.store is not None:
        await service.store.close()
    if service.files is not None:
        await service.files.close()
    if service.tracing is not None:
        await service.tracing.close()
    if telling is not None:
        telling.cancel()
    AWAKE.stop()
    lifecycle.enter(Phase.STOPPED)
    log.info("stopped", uptime_s=round(lifecycle.uptime_s, 1))
    return 0


async def _drain(work: Work, service: Service) -> None:
    """Let in-flight requests finish, then fail the rest."""
    lifecycle, control = service.lifecycle, service.control
    drained = asyncio.create_task(work.drained(), name="drain")
    if not lifecycle.ended:
        elapsed_s = time.monotonic() - control.requested_at
        left_s = service.settings.drain_timeout_s + work.extra_drain_s - elapsed_s
        if lifecycle.asleep and not lifecycle.refuses:  # what waits for it waits for nothing
            left_s = 0.0
        await first_of(asyncio.wait({drained}, timeout=max(0.0, left_s)), lifecycle.over.wait())
    if lifecycle.ended:
        how = "hangs" if lifecycle.phase is Phase.HUNG else "has ended"
        work.fail_rest(lambda: EngineDied(f"The engine {how}; please try again."))
        await asyncio.wait({drained}, timeout=_LOST_ENGINE_ANSWERS_S + work.extra_answers_s)
    elif not drained.done():
        failed = work.fail_rest(
            lambda: Draining("This server is shutting down and could not wait any longer.")
        )
        log.warning("drain timeout: failing the remaining requests", requests=failed)
        await asyncio.wait({drained}, timeout=_FAILED_ANSWERS_S + work.extra_answers_s)
    drained.cancel()
    if not lifecycle.ended:
        await first_of(control.drained(), lifecycle.over.wait())


def exit_code(lifecycle: Lifecycle, host: ModelHost) -> int:
    """0 clean, 70 the engine was lost, 73 it hangs, 71 the start failed, 78 a setting is wrong."""
    if lifecycle.phase is Phase.DEAD:
        return 70
    if lifecycle.phase is Phase.HUNG:
        return 73
    if lifecycle.phase is Phase.FAILED:
        return host.start_error.exit_code if host.start_error else StartError.exit_code
    return 0
