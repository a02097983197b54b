"""What makes a process end: signals, the supervisor's death, or the parent process.

A server of several processes has `LocalControl` in its parent; each serving process is controlled
by the parent (workers/child.py).
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from typing import Protocol

from app import signals
from app.endpoint import NO_NETWORK, Network
from app.gate import Gate
from app.hathora.link import ServerLink
from app.life.ending import exit_now
from app.life.waiting import first_of
from app.lifecycle import Lifecycle, Phase
from app.logs.setup import log
from app.settings.catalogue import Settings
from app.stats import GaugeSource

_LEAVE_S = 10.0
"""Longest wait for the removal of the network endpoint; requests are served meanwhile."""


class Peers(GaugeSource, Protocol):
    """The server's other serving processes; `gauges` includes this one."""

    count: int
    """Number of serving processes, this one included."""

    def publish(self, own: GaugeSource) -> None:
        """Share this process's gauges with the others."""

    async def abort(self, name: str | None) -> int:
        """End the requests of this name (None: all) in the other processes; returns how many."""

    async def all_warm(self, context_length: int | None) -> int | None:
        """Report that this process is warm, and the tokens that its model takes; return these once
        all are warm."""


class Control(Protocol):
    """What controls the life of a process."""

    requested: asyncio.Event
    """Set when the process must start draining."""
    requested_at: float
    """When it was set, by the monotonic clock, which all processes share."""

    @property
    def peers(self) -> Peers | None: ...

    async def open(self, lifecycle: Lifecycle, gate: Gate) -> None:
        """Begin to listen for a reason to end."""

    def network(self) -> Network: ...

    async def leave(self) -> None:
        """Return once the load balancer has stopped routing here. Phase `leaving` meanwhile."""

    async def drained(self) -> None:
        """Report that this process has no requests left; return when no process has any."""


class LocalControl:
    """Control of a server that is one process, or of the parent of several: signals, and the link
    to the supervisor."""

    peers: Peers | None = None

    def __init__(
        self,
        settings: Settings,
        cleanup: Callable[[], None],
        link: ServerLink | None = None,
        gauges: GaugeSource | None = None,
    ) -> None:
        """`link`: to the supervisor, if there is one. `gauges`: those of the whole server, if other
        processes admit its requests."""
        self._settings = settings
        self._cleanup = cleanup
        self._link = link
        self._gauges = gauges
        self._signals_received = 0
        self.requested = asyncio.Event()
        self.requested_at = 0.0

    async def open(self, lifecycle: Lifecycle, gate: Gate) -> None:
        self._lifecycle, self._gate = lifecycle, gate
        if self._link is not None:
            await self._link.open(on_lost=self._orphaned)
            lifecycle.listeners.append(self._link.tell)
        signals.on_end(self._end)

    def network(self) -> Network:
        return self._link.network if self._link is not None else NO_NETWORK

    def when_network_changes(self, listener: Callable[[Network], None]) -> None:
        if self._link is not None:
            self._link.listeners.append(listener)

    async def leave(self) -> None:
        if self._link is None or not self._link.network.attached:
            return
        self._lifecycle.enter(Phase.LEAVING)
        within_s = min(_LEAVE_S, self._settings.drain_timeout_s)
        await first_of(self._link.left(within_s), self._lifecycle.over.wait())
        if self._link.network.attached and not self._lifecycle.ended:
            log.warning("the network endpoint is not removed yet; draining anyway")

    async def drained(self) -> None:
        return

    def _end(self, number: signal.Signals) -> None:
        self._signals_received += 1
        if self._signals_received > 1:
            log.warning("second signal: exiting at once", signal=number.name)
            exit_now(128 + number, self._cleanup)
        in_flight = self._gauges.gauges().in_flight if self._gauges else self._gate.in_flight
        log.info(
            "draining",
            signal=number.name,
            in_flight=in_flight,
            timeout_s=self._settings.drain_timeout_s,
        )
        self.requested_at = time.monotonic()
        self.requested.set()

    def _orphaned(self) -> None:
        """End if the supervisor is lost, because it alone can remove the network endpoint. The load
        balancer's health checks then fail, and it stops routing here."""
        if not self._signals_received:
            self._end(signal.SIGTERM)
