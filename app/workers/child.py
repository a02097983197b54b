"""Control of one of several serving processes: the parent, which has the engine.

The process serves as a single one does, on its own socket at the common port. It reads its peers'
state from the shared gauges, and sends the parent what its peers must do.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from typing import assert_never

from app import signals
from app.channel import Channel
from app.endpoint import NO_NETWORK, Network
from app.engine.environment import RuntimeDir
from app.errors import InternalError
from app.gate import Gate
from app.lifecycle import Lifecycle, Phase
from app.processes import inherited_socket
from app.stats import Gauges, GaugeSource
from app.workers import messages
from app.workers.messages import FromChild, FromParent
from app.workers.shared_gauges import SharedGauges

_ABORTED_WITHIN_S = 5.0


class WorkerControl:
    """`Control` of this process; `peers` are the others, reached through the parent."""

    def __init__(self, process: int, processes: int, channel_fd: int, runtime: RuntimeDir) -> None:
        self._channel: Channel[FromChild, FromParent] = Channel(
            inherited_socket(channel_fd),
            messages.FROM_PARENT,
            on_message=self._received,
            on_closed=self._orphaned,
        )
        self.peers = ParentPeers(self._channel, SharedGauges(runtime.path, process), processes)
        self._runtime = runtime
        self._parent = os.getppid()
        self._is_orphan = False
        self._network = NO_NETWORK
        self._stop = asyncio.Event()
        self._engine_up = asyncio.Event()
        self.loading = asyncio.Event()
        """Set once the parent has accepted the settings and begins to load the model."""
        self.requested = asyncio.Event()
        self.requested_at = 0.0

    async def engine_up(self) -> int:
        """Wait until the engine runs; returns the pid of the process that owns it."""
        await self._engine_up.wait()
        return self._parent

    def clean_up(self) -> None:
        """Remove the runtime folder if the parent, which owns it, is gone."""
        if self._is_orphan:
            self._runtime.remove()

    async def open(self, lifecycle: Lifecycle, gate: Gate) -> None:
        self._lifecycle, self._gate = lifecycle, gate
        # SIGINT and SIGTERM were blocked when this process started, but libraries that are imported
        # later may unblock them.
        signals.ignore_all()
        lifecycle.listeners.append(self._report_end)
        await self._channel.open()

    def network(self) -> Network:
        return self._network

    async def leave(self) -> None:
        return

    async def drained(self) -> None:
        self._channel.send(messages.Drained())
        await self._stop.wait()

    def _received(self, message: FromParent) -> None:
        match message:
            case messages.Entered():
                self._enter(message)
            case messages.Endpoint(network):
                self._network = network
            case messages.Abort(no, name):
                self._channel.send(messages.Aborted(no, self._gate.abort(name)))
            case messages.Aborted(no, count):
                self.peers.aborted(no, count)
            case messages.Stop():
                self._stop.set()
            case _:
                assert_never(message)

    def _enter(self, entered: messages.Entered) -> None:
        self._lifecycle.started_at = entered.started_at
        self._lifecycle.enter(entered.phase, entered.reason)
        match entered.phase:
            case Phase.LOADING:
                self.loading.set()
            case Phase.WARMING:
                self._engine_up.set()
            case Phase.READY:
                self.peers.ready.set()
            case Phase.DRAINING:
                self.requested_at = entered.drain_requested_at
                self.requested.set()
            case _:
                pass

    def _report_end(self, phase: Phase) -> None:
        """Report an engine that is lost or hangs, or a failed start. The parent ignores a report
        that it caused."""
        if phase.broken:
            self._channel.send(messages.Ended(phase, self._lifecycle.reason))

    def _orphaned(self) -> None:
        self._is_orphan = True
        self._lifecycle.enter(Phase.DEAD, "the parent process is gone")


class ParentPeers:
    """`Peers` of a serving process, reached through the parent."""

    def __init__(
        self, channel: Channel[FromChild, FromParent], gauges: SharedGauges, count: int
    ) -> None:
        self._channel = channel
        self._gauges = gauges
        self._aborts: dict[int, asyncio.Future[int]] = {}
        self._numbers = itertools.count()
        self.count = count
        self.ready = asyncio.Event()
        """Set once every process has generated a token."""

    def publish(self, own: GaugeSource) -> None:
        self._gauges.publish(own)

    def gauges(self) -> Gauges:
        return self._gauges.gauges()

    def scraped(self) -> None:
        self._gauges.scraped()

    async def abort(self, name: str | None) -> int:
        no = next(self._numbers)
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._aborts[no] = answer
        self._channel.send(messages.Abort(no, name))
        try:
            async with asyncio.timeout(_ABORTED_WITHIN_S):
                return await answer
        except TimeoutError:
            raise InternalError("Another process of this server does not answer.") from None
        finally:
            del self._aborts[no]

    def aborted(self, no: int, count: int) -> None:
        """Pass on the answer to an `abort`."""
        answer = self._aborts.get(no)
        if answer is not None and not answer.done():
            answer.set_result(count)

    async def all_warm(self, context_length: int | None) -> int | None:
        self._channel.send(messages.Warm(context_length))
        await self.ready.wait()
        return context_length
