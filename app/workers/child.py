"""One of several serving processes: its control come from the parent, which has the engine.

It serves like a server that is alone, on a socket of its own at the common port. What there is to
know of the others it reads from the board; what is to be done in them it asks of the parent.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
from typing import assert_never

from app.endpoint import NO_NETWORK, Network
from app.engine.environment import RuntimeDir
from app.errors import InternalError
from app.gate import Gate
from app.lifecycle import Lifecycle, Phase
from app.stats import Gauges, GaugeSource
from app.workers import messages as line
from app.workers.messages import Line, Message
from app.workers.shared_gauges import SharedGauges

_ANSWERS_WITHIN_S = 5.0


class WorkerControl:
    """The control of this process, and its peers: both are at the other end of one line."""

    def __init__(self, process: int, processes: int, line_fd: int, runtime: RuntimeDir) -> None:
        os.set_inheritable(line_fd, False)  # what this process starts would keep it open
        self._line = Line(socket.socket(fileno=line_fd), self._heard, self._orphaned)
        self._board = SharedGauges(runtime.path, process)
        self._runtime = runtime
        self._parent = os.getppid()
        self._is_orphan = False
        self._network = NO_NETWORK
        self._questions: dict[int, asyncio.Future[int]] = {}
        self._numbers = itertools.count()
        self._ready, self._stop = asyncio.Event(), asyncio.Event()
        self._engine_up = asyncio.Event()
        self.loading = asyncio.Event()
        """Set once the parent has found the settings right, and begins to load the model."""
        self.count = processes
        self.peers = self
        self.asked = asyncio.Event()
        self.asked_at = 0.0

    async def engine_up(self) -> int:
        """Returns the pid of the process that has the engine, once it has."""
        await self._engine_up.wait()
        return self._parent

    def clean_up(self) -> None:
        """The folder is the parent's, as long as there is one."""
        if self._is_orphan:
            self._runtime.remove()

    # -- control ------------------------------------------------------------------------------

    async def open(self, lifecycle: Lifecycle, gate: Gate) -> None:
        self._lifecycle, self._gate = lifecycle, gate
        # The first two were blocked at birth; what is imported later may change that.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        lifecycle.listeners.append(self._tell_of_the_end)
        await self._line.open()

    def network(self) -> Network:
        return self._network

    async def leave(self) -> None:
        return

    async def all_out(self) -> None:
        self._line.tell(line.Empty())
        await self._stop.wait()

    # -- peers ----------------------------------------------------------------------------

    def publish(self, own: GaugeSource) -> None:
        self._board.publish(own)

    def gauges(self) -> Gauges:
        return self._board.gauges()

    def scraped(self) -> None:
        self._board.scraped()

    async def abort(self, name: str | None) -> int:
        no = next(self._numbers)
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._questions[no] = answer
        self._line.tell(line.Abort(no, name))
        try:
            async with asyncio.timeout(_ANSWERS_WITHIN_S):
                return await answer
        except TimeoutError:
            raise InternalError("Another process of this server does not answer.") from None
        finally:
            del self._questions[no]

    async def all_warm(self) -> None:
        self._line.tell(line.Warm())
        await self._ready.wait()

    # -- the line ----------------------------------------------------------------------------

    def _heard(self, message: Message) -> None:
        match message:
            case line.Entered():
                self._enter(message)
            case line.Endpoint(network):
                self._network = network
            case line.Abort(no, name):
                self._line.tell(line.Aborted(no, self._gate.abort(name)))
            case line.Aborted(no, count):
                answer = self._questions.get(no)
                if answer is not None and not answer.done():
                    answer.set_result(count)
            case line.Stop():
                self._stop.set()
            case line.Warm() | line.Ended() | line.Empty():
                raise AssertionError("only a child says this")
            case _:
                assert_never(message)

    def _enter(self, told: line.Entered) -> None:
        self._lifecycle.started_at = told.started_at
        self._lifecycle.enter(told.phase, told.reason)
        match told.phase:
            case Phase.LOADING:
                self.loading.set()
            case Phase.WARMING:
                self._engine_up.set()
            case Phase.READY:
                self._ready.set()
            case Phase.DRAINING:
                self.asked_at = told.asked_at
                self.asked.set()
            case _:
                pass

    def _tell_of_the_end(self, phase: Phase) -> None:
        """Also if the parent said so itself: it knows then."""
        if phase in (Phase.FAILED, Phase.DEAD):
            self._line.tell(line.Ended(phase, self._lifecycle.reason))

    def _orphaned(self) -> None:
        self._is_orphan = True
        self._lifecycle.enter(Phase.DEAD, "the parent process is gone")
