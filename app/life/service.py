"""The life of a process that serves: start, wait, drain, fail the rest, close. Told once.

    work.start ─ wait for a signal or the engine's end ─ control.leave ─ work.stop_taking
               ─ work.drained ─ (timeout: work.fail_rest) ─ control.drained ─ work.close ─ exit 0

SIGTERM, SIGINT   that way; exit 0
a second one      exit at once: 128 + signal (control.py)
engine lost       in-flight requests fail with an error; exit 70
start failed      exit 71, or 78 for a wrong setting

What differs between HTTP (web/server.py), RunPod's jobs (runpod/worker.py) and the parent of
several processes (workers/parent.py) is `Work`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from app.errors import Draining, EngineDied, ServeError, StartError
from app.gate import Gate
from app.life.control import Control
from app.life.ending import exit_now
from app.life.host import AllWarm, Launch, ModelHost
from app.life.waiting import first_of
from app.lifecycle import Lifecycle, Phase
from app.logs.setup import log
from app.settings.catalogue import Settings
from app.stats import LocalGauges, LoopLag

_CUT_OFF_S = 3.0
"""For clients to receive the error that ended their request, when the drain took too long."""
_ANSWER_LOST_S = 1.5
"""For the same, when the engine is gone."""


class Service:
    """One process: where it is in its life, its requests, its model, and what controls it."""

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
        `all_warm` returns once every process of the server has generated a token."""
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
        )
        if peers is not None:
            all_warm = peers.all_warm
        self.host = ModelHost(
            settings, self.lifecycle, self.gate, launch, all_warm, quiet=peers is not None
        )
        self.lag = LoopLag()
        self.gauges = LocalGauges(self.gate, self.lag, self.host.silent_s)
        """Of this process alone."""


class Work(Protocol):
    """What a process does with its life."""

    patience_s: float
    """Beyond DRAIN_TIMEOUT, until in-flight requests are failed."""
    last_words_s: float
    """Beyond the constants above, for requests that were failed to be answered."""

    @property
    def closable(self) -> bool:
        """False while the start may hang in another library: it can be left, not ended."""

    async def start(self) -> asyncio.Task[None]:
        """Begin; the task ends if the work ends by itself."""

    def stop_taking(self) -> None:
        """Take no new requests; in-flight ones go on."""

    async def drained(self) -> None:
        """Return once no request is in flight."""

    def fail_rest(self, error: Callable[[], ServeError]) -> int:
        """End in-flight requests with an error; returns how many there were."""

    async def close(self) -> None:
        """End the engine and everything else that was started. Nothing is in flight."""


async def live(work: Work, service: Service) -> int:
    """Serve until the end; returns the exit code, unless the process has to exit at once."""
    lifecycle, control = service.lifecycle, service.control
    await control.open(lifecycle, service.gate)
    running = await work.start()
    await first_of(running, control.requested.wait(), lifecycle.over.wait())
    if not running.done():
        await control.leave()
        work.stop_taking()
        await _drain(work, service)
    if lifecycle.ended:
        # A lost engine cannot be asked to end, a start that hangs cannot be waited for.
        code = exit_code(lifecycle, service.host)
        log.error("exiting", reason=lifecycle.reason, code=code)
        exit_now(code, service.cleanup)
    if running.done() and not running.cancelled() and (error := running.exception()) is not None:
        log.error("the server failed", error=repr(error), exc_info=error)
        exit_now(StartError.exit_code, service.cleanup)
    if not work.closable:
        log.info("stopped before the model was loaded")
        exit_now(0, service.cleanup)
    await work.close()
    lifecycle.enter(Phase.STOPPED)
    log.info("stopped", uptime_s=round(lifecycle.uptime_s, 1))
    return 0


async def _drain(work: Work, service: Service) -> None:
    """Let in-flight requests finish, then fail the rest."""
    lifecycle, control = service.lifecycle, service.control
    drained = asyncio.create_task(work.drained(), name="drain")
    if not lifecycle.ended:
        elapsed_s = time.monotonic() - control.requested_at
        left_s = service.settings.drain_timeout_s + work.patience_s - elapsed_s
        await first_of(asyncio.wait({drained}, timeout=max(0.0, left_s)), lifecycle.over.wait())
    if lifecycle.ended:
        work.fail_rest(lambda: EngineDied("The engine has ended; please try again."))
        await asyncio.wait({drained}, timeout=_ANSWER_LOST_S + work.last_words_s)
    elif not drained.done():
        failed = work.fail_rest(
            lambda: Draining("This server is shutting down and could not wait any longer.")
        )
        log.warning("drain timeout: the rest is cut off", requests=failed)
        await asyncio.wait({drained}, timeout=_CUT_OFF_S + work.last_words_s)
    drained.cancel()
    if not lifecycle.ended:
        await first_of(control.drained(), lifecycle.over.wait())


def exit_code(lifecycle: Lifecycle, host: ModelHost) -> int:
    """0 clean, 70 the engine was lost, 71 the start failed, 78 a setting is wrong."""
    if lifecycle.phase is Phase.DEAD:
        return 70
    if lifecycle.phase is Phase.FAILED:
        return host.start_error.exit_code if host.start_error else StartError.exit_code
    return 0
