"""Who tells a server to end: signals, or the supervisor's death.

A server of several processes has these in its parent; the processes that serve have their control
from there (workers/child.py).
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from typing import Protocol

from app.endpoint import NO_NETWORK, Network
from app.gate import Gate
from app.hathora.link import ServerEnd
from app.life.ending import exit_now, first_of
from app.lifecycle import Lifecycle, Phase
from app.logs.setup import log
from app.settings.catalogue import Settings
from app.stats import GaugeSource

_LEAVE_S = 10.0
"""For the removal of the network endpoint; requests are served meanwhile."""


class Peers(GaugeSource, Protocol):
    """The processes that serve with this one; `figures` are those of all."""

    count: int
    """This one included."""

    def publish(self, own: GaugeSource) -> None:
        """Let the others know this process's figures."""

    async def abort(self, name: str | None) -> int:
        """End the requests of this name, or all, in the other processes; returns how many."""

    async def all_warm(self) -> None:
        """Say that this process is warm; returns once all are."""


class Control(Protocol):
    asked: asyncio.Event
    """Set when the server shall see its people out."""
    asked_at: float
    """When, by the monotonic clock, which all processes share."""

    @property
    def peers(self) -> Peers | None: ...

    async def open(self, lifecycle: Lifecycle, gate: Gate) -> None:
        """From now on `lifecycle` goes through the phases of the end."""

    def network(self) -> Network: ...

    async def leave(self) -> None:
        """Returns once the load balancer sends nobody any more."""

    async def all_out(self) -> None:
        """Say that nobody is inside any more; returns once that is so in the whole server."""


class LocalControl:
    """The control of a server that is one process, or of the parent of several."""

    peers: Peers | None = None

    def __init__(
        self,
        settings: Settings,
        cleanup: Callable[[], None],
        link_fd: int | None = None,
        counted: GaugeSource | None = None,
    ) -> None:
        """`link_fd`: the line to the supervisor, if there is one; `counted`: who knows how many are
        inside, if that is not the gate."""
        self._settings = settings
        self._counted = counted
        self._cleanup = cleanup
        self._link = ServerEnd(link_fd) if link_fd is not None else None
        self._count = 0
        self.asked = asyncio.Event()
        self.asked_at = 0.0

    async def open(self, lifecycle: Lifecycle, gate: Gate) -> None:
        self._lifecycle, self._gate = lifecycle, gate
        if self._link is not None:
            await self._link.open(lost=self._orphaned)
            lifecycle.listeners.append(self._link.tell)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_end, number)
        # SGLang's children send it when they fail; left to itself it means a core dump. That they
        # have ended is seen directly (engine/sglang/launch.py: Watch).
        loop.add_signal_handler(signal.SIGQUIT, log.error, "an engine process reports a failure")

    def network(self) -> Network:
        return self._link.network if self._link is not None else NO_NETWORK

    def when_network_changes(self, tell: Callable[[Network], None]) -> None:
        if self._link is not None:
            self._link.listeners.append(tell)

    async def leave(self) -> None:
        if self._link is None or self._lifecycle.phase is not Phase.LEAVING:
            return
        within_s = min(_LEAVE_S, self._settings.drain_timeout_s)
        await first_of(self._link.left(within_s), self._lifecycle.over.wait())
        if self._link.network.attached and not self._lifecycle.ended:
            log.warning("the network endpoint is not removed yet; draining all the same")
        self._lifecycle.enter(Phase.DRAINING)

    async def all_out(self) -> None:
        return

    def _asked_to_end(self, number: signal.Signals) -> None:
        self._count += 1
        if self._count > 1:
            log.warning("second signal: exiting at once", signal=number.name)
            exit_now(128 + number, self._cleanup)
        inside = self._counted.gauges().in_flight if self._counted else self._gate.in_flight
        log.info(
            "draining", signal=number.name, in_flight=inside,
            timeout_s=self._settings.drain_timeout_s,
        )  # fmt: skip
        self.asked_at = time.monotonic()
        self._lifecycle.enter(Phase.LEAVING if self.network().attached else Phase.DRAINING)
        self.asked.set()

    def _orphaned(self) -> None:
        """Without the supervisor nobody could remove the endpoint later: end, so that health checks
        take the load balancer's traffic away."""
        if not self._count:
            self._asked_to_end(signal.SIGTERM)
