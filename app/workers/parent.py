"""The parent of several serving processes: it has the port, the engine and the signals.

    parent ─┬─ serving process 0 ─┐
            ├─ serving process 1 ─┼─ requests to the engine, outputs from it
            └─ engine's processes ┘

It serves no HTTP itself. Every phase of the server is its phase, and it passes each on. Its life is
that of life/service.py, with the serving processes as its work:

draining          each process drains and reports it; when all have, all close
engine lost       each process fails its in-flight requests
a process lost    the same: the engine would go on computing for clients that are gone
parent lost       each process fails its in-flight requests and exits
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import assert_never

import uvloop

from app import processes, signals
from app.channel import Channel
from app.endpoint import Network
from app.engine.environment import RuntimeDir
from app.errors import ServeError
from app.hathora.link import ServerLink
from app.life.control import LocalControl
from app.life.host import Launch
from app.life.service import Service, live
from app.lifecycle import Phase
from app.logs.setup import log
from app.settings.catalogue import Settings
from app.workers import messages
from app.workers.messages import FromChild, FromParent
from app.workers.shared_gauges import SharedGauges


def run(
    settings: Settings,
    listeners: Sequence[socket.socket],
    arguments: Sequence[str],
    launch: Launch,
    runtime: RuntimeDir,
    link: ServerLink | None,
) -> int:
    """Serve until the end, with a process for each of the sockets; returns the exit code.

    `arguments`: the command line, for the processes. `link`: to the supervisor.
    """

    async def serve() -> int:
        children = Children()
        control = LocalControl(settings, runtime.remove, link, SharedGauges(runtime.path))
        service = Service(
            settings,
            launch,
            control,
            runtime.remove,
            admits=False,
            all_warm=children.all_warm,
        )
        return await live(Parent(service, control, children, listeners, arguments), service)

    SharedGauges.create(runtime.path, len(listeners))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve())


class Child:
    """A serving process, as its parent sees it."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        end: socket.socket,
        received: Callable[[Child, FromChild], None],
    ) -> None:
        """`received` is called with each message of it."""
        self.process = process
        self.warm, self.drained, self.gone = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._channel: Channel[FromParent, FromChild] = Channel(
            end,
            messages.FROM_CHILD,
            on_message=lambda message: received(self, message),
            on_closed=lambda: None,  # its end is seen by its pid
        )

    async def open(self) -> None:
        await self._channel.open()

    def send(self, message: FromParent) -> None:
        self._channel.send(message)

    @property
    def end(self) -> str:
        how = processes.how_it_ended(self.process.returncode)
        return f"a serving process (pid {self.process.pid}) ended: {how}"


class Children(list[Child]):
    """The serving processes."""

    def send(self, message: FromParent) -> None:
        for child in self:
            child.send(message)

    async def all_warm(self) -> None:
        await _all(child.warm for child in self)


@dataclass
class _Abort:
    """One child's question to all the others: what was answered so far."""

    asker: Child
    no: int
    unanswered: int
    count: int = 0


class Parent:
    """`Work` of the parent: its serving processes."""

    patience_s = 10.0
    """For a process to fail its in-flight requests itself, and to say so."""
    last_words_s = 1.5
    """For the processes to exit after that."""

    def __init__(
        self,
        service: Service,
        control: LocalControl,
        children: Children,
        listeners: Sequence[socket.socket],
        arguments: Sequence[str],
    ) -> None:
        self._service = service
        self._control = control
        self._children = children
        self._listeners = listeners
        self._arguments = arguments
        self._aborts: dict[int, _Abort] = {}
        self._numbers = itertools.count()
        self._stopping = False

    @property
    def closable(self) -> bool:
        return self._service.host.loaded

    async def start(self) -> asyncio.Task[None]:
        host, port = self._listeners[0].getsockname()[:2]
        for no, listener in enumerate(self._listeners):
            await self._start_child(no, listener)
        lifecycle = self._service.lifecycle
        lifecycle.listeners.append(self._send_phase)
        self._send_phase(lifecycle.phase)
        self._control.when_network_changes(self._send_network)
        self._send_network(self._control.network())
        log.info(
            "listening",
            host=host,
            port=port,
            model=self._service.settings.names[0],
            processes=len(self._children),
        )
        self._service.host.start()
        return asyncio.create_task(self._all_gone(), name="children")

    def stop_taking(self) -> None:
        self._service.lifecycle.enter(Phase.DRAINING)

    async def drained(self) -> None:
        """All have drained, were asked to stop, and are gone."""
        if not self._service.lifecycle.ended:
            if not self.closable:
                return  # before the model is loaded no request is in flight
            await _all(child.drained for child in self._children)
            self._stop()
        await self._all_gone()

    def fail_rest(self, error: Callable[[], ServeError]) -> int:
        """The processes fail their requests themselves, for the same reason; those that hang are
        killed when this process closes."""
        if not self._service.lifecycle.ended:
            self._stop()
        return sum(not child.gone.is_set() for child in self._children)

    async def close(self) -> None:
        for child in self._children:
            if not child.gone.is_set():
                log.error("a serving process hangs: it is killed", pid=child.process.pid)
                child.process.kill()
        await self._service.host.close()

    # -- the processes -----------------------------------------------------------------------

    async def _start_child(self, no: int, listener: socket.socket) -> None:
        ours, theirs = socket.socketpair()
        with theirs, listener, signals.blocked():
            port_fd, channel_fd = listener.fileno(), theirs.fileno()
            process = processes.start(
                self._arguments,
                "--process",
                f"{no}:{channel_fd}:{port_fd}",
                pass_fds=[channel_fd, port_fd],
            )
        child = Child(process, ours, self._received)
        self._children.append(child)
        pidfd = os.pidfd_open(process.pid)
        asyncio.get_running_loop().add_reader(pidfd, self._ended, child, pidfd)
        await child.open()

    def _ended(self, child: Child, pidfd: int) -> None:
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
        child.process.wait()
        child.gone.set()
        if not self._stopping:
            self._service.lifecycle.enter(Phase.DEAD, child.end)

    def _stop(self) -> None:
        self._stopping = True
        self._children.send(messages.Stop())

    async def _all_gone(self) -> None:
        await _all(child.gone for child in self._children)

    # -- the channels ------------------------------------------------------------------------

    def _send_phase(self, phase: Phase) -> None:
        lifecycle = self._service.lifecycle
        self._children.send(
            messages.Entered(
                phase, lifecycle.reason, lifecycle.started_at, self._control.requested_at
            )
        )

    def _send_network(self, network: Network) -> None:
        self._children.send(messages.Endpoint(network))

    def _received(self, child: Child, message: FromChild) -> None:
        match message:
            case messages.Warm():
                child.warm.set()
            case messages.Drained():
                child.drained.set()
            case messages.Ended(phase, reason):
                self._service.lifecycle.enter(phase, reason)
            case messages.Abort(no, name):
                self._ask_the_others(child, no, name)
            case messages.Aborted(no, count):
                self._answered(no, count)
            case _:
                assert_never(message)

    def _ask_the_others(self, asker: Child, asked_as: int, name: str | None) -> None:
        others = [child for child in self._children if child is not asker]
        no = next(self._numbers)
        self._aborts[no] = _Abort(asker, asked_as, len(others))
        for child in others:
            child.send(messages.Abort(no, name))

    def _answered(self, no: int, count: int) -> None:
        abort = self._aborts[no]
        abort.count += count
        abort.unanswered -= 1
        if not abort.unanswered:
            del self._aborts[no]
            abort.asker.send(messages.Aborted(abort.no, abort.count))


async def _all(events: Iterable[asyncio.Event]) -> None:
    for event in events:
        await event.wait()
