"""The parent of several serving processes: it has the port, the engine, the signals and the end.

    parent ─┬─ serving process 0 ─┐
            ├─ serving process 1 ─┼─ requests to the engine, outputs from it
            └─ engine's processes ┘

It serves no HTTP itself. Every phase of the server is its phase, and the others are told:

SIGTERM, SIGINT   ─> each sees its people out ─> all are out ─> all go ─> engine down ─> exit 0
a second one      ─> all out now (128 + signal)
engine lost       ─> each answers those inside with an error ─> exit 70
a process is lost ─> the same: the engine would go on computing for nobody
this one is lost  ─> each answers those inside with an error and goes
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

import uvloop

from app.endpoint import Network
from app.engine.environment import RuntimeDir
from app.gate import Gate
from app.life.control import LocalControl
from app.life.ending import exit_now, first_of
from app.life.host import Launch, ModelHost, exit_code
from app.lifecycle import Lifecycle, Phase
from app.logs.setup import log
from app.settings.catalogue import Settings
from app.workers import messages as line
from app.workers.messages import Line, Message
from app.workers.shared_gauges import SharedGauges

_ENTRY = Path(__file__).parents[2] / "serve_hathora.py"
_ANSWER_THE_LOST_S = 3.0
"""For the others to answer those inside, when one of us is lost."""
_HANGS_S = 10.0
"""Beyond DRAIN_TIMEOUT, for a process to tell the rest and go."""


def run(
    settings: Settings,
    listeners: Sequence[socket.socket],
    arguments: Sequence[str],
    launch: Launch,
    runtime: RuntimeDir,
    link_fd: int | None,
) -> int:
    """Serve until the end, with a process for each of the sockets; returns the exit code.

    `arguments`: the command line, for them.
    """
    SharedGauges.create(runtime.path, len(listeners))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        parent = Parent(settings, listeners, arguments, launch, runtime, link_fd)
        return runner.run(parent.serve())


class Child:
    """A serving process, as its parent sees it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.warm, self.empty, self.gone = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def listen(self, end: socket.socket, heard: Callable[[Child, Message], None]) -> None:
        # That it is gone is seen by its pid.
        self._line = Line(end, lambda message: heard(self, message), lambda: None)
        await self._line.open()

    def tell(self, message: Message) -> None:
        self._line.tell(message)

    @property
    def end(self) -> str:
        code = self.process.returncode
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
        return f"a serving process (pid {self.process.pid}) ended: {how}"


@dataclass
class _Question:
    """Of one child to all the others: what was answered so far."""

    asker: Child
    no: int
    unanswered: int
    count: int = 0


class Parent:
    def __init__(
        self,
        settings: Settings,
        listeners: Sequence[socket.socket],
        arguments: Sequence[str],
        launch: Launch,
        runtime: RuntimeDir,
        link_fd: int | None,
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._arguments = arguments
        self._cleanup = runtime.remove
        self._lifecycle = Lifecycle()
        # Nobody comes in here.
        self._gate = Gate(self._lifecycle, max_running=0, max_waiting=0)
        self._host = ModelHost(settings, self._lifecycle, self._gate, launch, self._all_warm)
        self._control = LocalControl(settings, runtime.remove, link_fd, SharedGauges(runtime.path))
        self._children: list[Child] = []
        self._questions: dict[int, _Question] = {}
        self._numbers = itertools.count()
        self._stopping = False

    async def serve(self) -> int:
        await self._control.open(self._lifecycle, self._gate)
        host, port = self._listeners[0].getsockname()[:2]
        await self._start()
        log.info(
            "listening", host=host, port=port, model=self._settings.names[0],
            processes=len(self._children),
        )  # fmt: skip
        self._host.start()
        await first_of(self._control.asked.wait(), self._lifecycle.over.wait())
        await self._control.leave()
        if not self._host.loaded and not self._lifecycle.ended:
            log.info("stopped before the model was loaded")
            exit_now(0, self._cleanup)
        await self._see_out()
        if self._lifecycle.ended:
            code = exit_code(self._lifecycle, self._host)
            log.error("exiting", reason=self._lifecycle.reason, code=code)
            exit_now(code, self._cleanup)
        await self._host.close()
        self._lifecycle.enter(Phase.STOPPED)
        log.info("stopped", uptime_s=round(self._lifecycle.uptime_s, 1))
        return 0

    # -- the processes -----------------------------------------------------------------------

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        for no, listener in enumerate(self._listeners):
            ours, theirs = socket.socketpair()
            with theirs, listener:
                child = Child(self._spawn(no, theirs.fileno(), listener.fileno()))
            self._children.append(child)
            loop.add_reader(fd := os.pidfd_open(child.process.pid), self._ended, child, fd)
            await child.listen(ours, self._heard)
        self._lifecycle.listeners.append(self._tell_phase)
        self._tell_phase(self._lifecycle.phase)
        self._control.when_network_changes(self._tell_network)
        self._tell_network(self._control.network())

    def _spawn(self, no: int, line_fd: int, port_fd: int) -> subprocess.Popen[bytes]:
        # Ctrl-C in a terminal, and service managers that signal the whole group, would end it in
        # the middle of a drain.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            return subprocess.Popen(
                [sys.executable, str(_ENTRY), "serve", *self._arguments,
                 "--process", f"{no}:{line_fd}:{port_fd}"],
                pass_fds=[line_fd, port_fd],
            )  # fmt: skip
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _ended(self, child: Child, pidfd: int) -> None:
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
        child.process.wait()
        child.gone.set()
        if not self._stopping:
            self._lifecycle.enter(Phase.DEAD, child.end)

    async def _all_warm(self) -> None:
        for child in self._children:
            await child.warm.wait()

    async def _see_out(self) -> None:
        """Wait until nobody is inside any of them, and each has gone."""
        if not self._lifecycle.ended:
            within_s = self._settings.drain_timeout_s + _HANGS_S
            empty = _each((child.empty for child in self._children), within_s)
            await first_of(empty, self._lifecycle.over.wait())
        if not self._lifecycle.ended:
            self._stopping = True
            self._tell_all(line.Stop())
        await _each(
            (child.gone for child in self._children),
            _ANSWER_THE_LOST_S if self._lifecycle.ended else _HANGS_S,
        )
        for child in self._children:
            if not child.gone.is_set():
                log.error("a serving process hangs: it is killed", pid=child.process.pid)
                child.process.kill()

    # -- the lines ---------------------------------------------------------------------------

    def _tell_phase(self, phase: Phase) -> None:
        self._tell_all(
            line.Entered(
                phase, self._lifecycle.reason, self._lifecycle.started_at, self._control.asked_at
            )
        )

    def _tell_network(self, network: Network) -> None:
        self._tell_all(line.Endpoint(network))

    def _tell_all(self, message: Message) -> None:
        for child in self._children:
            child.tell(message)

    def _heard(self, child: Child, message: Message) -> None:
        match message:
            case line.Warm():
                child.warm.set()
            case line.Empty():
                child.empty.set()
            case line.Ended(phase, reason):
                self._lifecycle.enter(phase, reason)
            case line.Abort(no, name):
                self._ask_the_others(child, no, name)
            case line.Aborted(no, count):
                self._answered(no, count)
            case line.Entered() | line.Endpoint() | line.Stop():
                raise AssertionError("only the parent says this")
            case _:
                assert_never(message)

    def _ask_the_others(self, asker: Child, asked_as: int, name: str | None) -> None:
        others = [child for child in self._children if child is not asker]
        no = next(self._numbers)
        self._questions[no] = _Question(asker, asked_as, len(others))
        for child in others:
            child.tell(line.Abort(no, name))

    def _answered(self, no: int, count: int) -> None:
        question = self._questions[no]
        question.count += count
        question.unanswered -= 1
        if not question.unanswered:
            del self._questions[no]
            question.asker.tell(line.Aborted(question.no, question.count))


async def _each(events: Iterable[asyncio.Event], within_s: float) -> None:
    """Wait for all, but no longer than that."""
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            for event in events:
                await event.wait()
