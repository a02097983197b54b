"""The parent of several serving processes: it owns the port and the engine, and handles signals.

    parent ─┬─ serving process 0 ─┐
            ├─ serving process 1 ─┼─ requests to the engine, outputs from it
            └─ engine's processes ┘

It serves no HTTP itself. Its phase is that of the server; it sends every change to the serving
processes. Its life is that of life/service.py, with the serving processes as its work:

draining          each process drains and reports it; once all have, all close
engine lost       each process fails its in-flight requests
a process lost    the same: the engine would go on generating for clients that are gone
one stands still  the same: clients whose connections it has would wait for ever
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
from typing import TypeAlias, assert_never

from app import processes, signals, unix_sockets
from app.channel import Channel
from app.endpoint import Network
from app.engine.environment import RuntimeDir
from app.errors import ServeError
from app.hathora.link import ServerLink
from app.life.control import LocalControl
from app.life.host import Launch
from app.life.ready import announce_when_ready, url_of
from app.life.service import Service, live
from app.lifecycle import Phase
from app.logs.setup import log
from app.loop import run_loop
from app.settings.catalogue import Settings
from app.workers import messages
from app.workers.messages import FromChild, FromParent
from app.workers.shared_gauges import SharedGauges

_LOOK_S = 1.0
_STILL_LOOKS = 15
"""A serving process whose row was not written for so many looks stands still."""
StartProcess: TypeAlias = Callable[..., subprocess.Popen[bytes]]
"""Starts a serving process, with `*role` and `pass_fds` as `processes.start` takes them."""


def run(
    settings: Settings,
    listeners: Sequence[socket.socket],
    start: StartProcess,
    launch: Launch,
    runtime: RuntimeDir,
    link: ServerLink | None,
) -> int:
    """Serve until the end, with one process per socket; returns the exit code.

    `link`: to the supervisor.
    """
    remove = unix_sockets.remover(listeners[0])

    def clean_up() -> None:
        remove()
        runtime.remove()

    async def serve() -> int:
        children = Children()
        control = LocalControl(settings, clean_up, link, SharedGauges(runtime.path))
        service = Service(
            settings,
            launch,
            control,
            clean_up,
            admits=False,
            all_warm=children.all_warm,
        )
        work = Parent(service, control, children, listeners, start)
        watching = asyncio.create_task(_end_if_one_stands_still(service, children, runtime))
        try:
            return await live(work, service)
        finally:
            watching.cancel()

    try:
        SharedGauges.create(runtime.path, len(listeners))
        return run_loop(serve())
    finally:
        remove()


class Child:
    """A serving process, as its parent sees it."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        end: socket.socket,
        received: Callable[[Child, FromChild], None],
    ) -> None:
        """`received` is called with each of its messages."""
        self.process = process
        self.warm, self.drained, self.gone = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.context_length: int | None = None
        """Known once it is warm."""
        self._channel: Channel[FromParent, FromChild] = Channel(
            end,
            messages.FROM_CHILD,
            on_message=lambda message: received(self, message),
            on_closed=lambda: None,  # the pidfd reports its end
        )

    async def open(self) -> None:
        await self._channel.open()

    def send(self, message: FromParent) -> None:
        self._channel.send(message)

    @property
    def end(self) -> str:
        """How the process ended, as one sentence."""
        how = processes.how_it_ended(self.process.returncode)
        return f"a serving process (pid {self.process.pid}) ended: {how}"


class Children(list[Child]):
    """The serving processes."""

    def send(self, message: FromParent) -> None:
        for child in self:
            child.send(message)

    async def all_warm(self, _: int | None) -> int | None:
        """As `AllWarm`; the parent has no model of its own."""
        await _all(child.warm for child in self)
        return self[0].context_length


@dataclass
class _Abort:
    """An abort that one child requested of all others, with the answers so far."""

    requester: Child
    no: int
    """The requester's number."""
    unanswered: int
    count: int = 0


class Parent:
    """`Work` of the parent: its serving processes."""

    extra_drain_s = 10.0
    """For the processes to fail their in-flight requests themselves, and to report it."""
    extra_answers_s = 1.5
    """For the processes to exit after that."""

    def __init__(
        self,
        service: Service,
        control: LocalControl,
        children: Children,
        listeners: Sequence[socket.socket],
        start: StartProcess,
    ) -> None:
        self._service = service
        self._control = control
        self._children = children
        self._listeners = listeners
        self._start = start
        self._aborts: dict[int, _Abort] = {}
        self._numbers = itertools.count()
        self._stopping = False

    @property
    def closable(self) -> bool:
        return self._service.host.loaded

    async def start(self) -> asyncio.Task[None]:
        address = unix_sockets.address(self._listeners[0])
        announce_when_ready(self._service, url_of(self._service.settings, self._listeners[0]))
        for no, listener in enumerate(self._listeners):
            await self._start_child(no, listener)
        lifecycle = self._service.lifecycle
        lifecycle.listeners.append(self._send_phase)
        self._send_phase(lifecycle.phase)
        self._control.when_network_changes(self._send_network)
        self._send_network(self._control.network())
        log.info(
            "listening",
            **address,
            model=self._service.settings.names[0],
            processes=len(self._children),
        )
        self._service.host.start()
        return asyncio.create_task(self._all_gone(), name="children")

    def stop_taking(self) -> None:
        self._service.lifecycle.enter(Phase.DRAINING)

    async def drained(self) -> None:
        """Wait until all processes have drained; then stop them and wait until they are gone."""
        if not self._service.lifecycle.ended:
            if not self.closable:
                return  # no request is in flight before the model is loaded
            await _all(child.drained for child in self._children)
            self._stop()
        await self._all_gone()

    def fail_rest(self, error: Callable[[], ServeError]) -> int:
        """Stop the processes, which fail their requests themselves; `close` kills any that hang."""
        if not self._service.lifecycle.ended:
            self._stop()
        return sum(not child.gone.is_set() for child in self._children)

    async def close(self) -> None:
        for child in self._children:
            if not child.gone.is_set():
                log.error("killing a serving process that hangs", pid=child.process.pid)
                child.process.kill()
        await self._service.host.close()

    # -- the processes -----------------------------------------------------------------------

    async def _start_child(self, no: int, listener: socket.socket) -> None:
        ours, theirs = socket.socketpair()
        with theirs, listener, signals.blocked():
            port_fd, channel_fd = listener.fileno(), theirs.fileno()
            process = self._start(
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
            case messages.Warm(context_length):
                child.context_length = context_length
                child.warm.set()
            case messages.Drained():
                child.drained.set()
            case messages.Ended(phase, reason):
                self._service.lifecycle.enter(phase, reason)
            case messages.Abort(no, name):
                self._abort_in_others(child, no, name)
            case messages.Aborted(no, count):
                self._aborted(no, count)
            case _:
                assert_never(message)

    def _abort_in_others(self, requester: Child, requested_as: int, name: str | None) -> None:
        others = [child for child in self._children if child is not requester]
        no = next(self._numbers)
        self._aborts[no] = _Abort(requester, requested_as, len(others))
        for child in others:
            child.send(messages.Abort(no, name))

    def _aborted(self, no: int, count: int) -> None:
        abort = self._aborts[no]
        abort.count += count
        abort.unanswered -= 1
        if not abort.unanswered:
            del self._aborts[no]
            abort.requester.send(messages.Aborted(abort.no, abort.count))


async def _end_if_one_stands_still(
    service: Service, children: Sequence[Child], runtime: RuntimeDir
) -> None:
    gauges = SharedGauges(runtime.path)
    looks: dict[int, int] = {}
    written: Sequence[float] = [0.0] * len(gauges.written_at())
    # Looks are counted, not seconds: while this process stood still, the others may have, too.
    while not looks or max(looks.values()) < _STILL_LOOKS:
        await asyncio.sleep(_LOOK_S)
        before, written = written, gauges.written_at()
        for no, (earlier, now) in enumerate(zip(before, written, strict=True)):
            looks[no] = looks.get(no, 0) + 1 if now and earlier == now else 0
        if children and all(child.drained.is_set() for child in children):
            return
    no = max(looks, key=looks.__getitem__)
    pid = children[no].process.pid
    service.lifecycle.enter(Phase.DEAD, f"a serving process (pid {pid}) stands still")


async def _all(events: Iterable[asyncio.Event]) -> None:
    for event in events:
        await event.wait()
