"""The engine's processes: notice the end of each at once, and end the schedulers.

    this process ─┬─ sglang::scheduler_TP0, ...     or, with several replicas,
                  ├─ sglang::data_parallel_controller ─┬─ sglang::scheduler_DP0
                  └─ sglang::detokenizer               └─ sglang::scheduler_DP1

The controller watches none of its schedulers: after the end of one, its share of the requests would
wait for ever. So every process is watched by a pidfd, which needs no parenthood.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from app import signals
from app.engine.base import EngineLost, EngineProcess, Watched
from app.logs.setup import log
from app.processes import how_it_ended

_LOOK_S = 0.2
_FAILED_CHILD_GRACE_S = 8.0
"""SGLang looks every 5 s whether a child that it waits for has ended."""
_WAITED_FOR_S = 0.1
"""Between the wait of another thread for a process and its note of how that has ended."""
_REPORTED_GRACE_S = 5.0
"""For a process that has reported its failure to end: its end says more than the report."""
_CLOSE_TIMEOUT_S = 10.0
_CONTROLLER = "sglang::data_parallel_controller"


class Member:
    """A process of the engine: a child of this one, or a child's child."""

    def __init__(self, process: psutil.Process, child: Any = None) -> None:
        """`child`: multiprocessing's `Popen`, for a child of this process.

        Raises psutil.Error or OSError if the process is gone.
        """
        self.pid = process.pid
        self.pidfd = os.pidfd_open(process.pid)
        if not process.is_running():  # another has its pid by now
            os.close(self.pidfd)
            raise psutil.NoSuchProcess(process.pid)
        self.name = _title(process) or process.name()
        self._child = child
        self._status: int | None = None
        self._unknown = False

    def is_alive(self) -> bool:
        ends = select.poll()
        ends.register(self.pidfd, select.POLLIN)
        return not ends.poll(0)

    def note_end(self) -> None:
        """Keep how it ended, as long as the kernel can say so."""
        if self._child is not None:
            self._ask_child()
        else:
            self._status = _status_of_zombie(self.pid)

    @property
    def exitcode(self) -> int | None:
        """As `Popen.returncode`; None if it is alive, or if its own parent knows it alone."""
        return self._status if self._child is None else self._ask_child()

    def _ask_child(self) -> int | None:
        """Another thread, such as SGLang's watchdog, may have waited for the process, and be about
        to keep its exit code. Waits for that once: the exit code may be lost for good."""
        code: int | None = self._child.poll()
        deadline = time.monotonic() + _WAITED_FOR_S
        while code is None and not self._unknown and not self.is_alive():
            self._unknown = time.monotonic() > deadline
            time.sleep(0.001)  # lets that thread run; the engine is lost, and no stream waits
            code = self._child.poll()
        return code

    def rename(self) -> None:
        """Take the title that SGLang may have set since."""
        with contextlib.suppress(psutil.Error):
            self.name = _title(psutil.Process(self.pid)) or self.name

    @property
    def end(self) -> str:
        how = "ended" if self.exitcode is None else how_it_ended(self.exitcode)
        return f"an engine process ({self.name}, pid {self.pid}): {how}"


class Watch:
    """Notices at once when a process of the engine ends."""

    def __init__(self) -> None:
        """Processes that run already, such as RunPod's heartbeat, are not the engine's."""
        self.owner = os.getpid()
        self._loop = asyncio.get_running_loop()
        self._others = {process.pid for process in psutil.Process().children(recursive=True)}
        self._members: dict[int, Member] = {}
        self._closing = False
        self.lost: asyncio.Future[str] = self._loop.create_future()
        signals.on_failed_child(self._reported)

    @property
    def processes(self) -> Sequence[EngineProcess]:
        return list(self._members.values())

    def started(self, child: Any) -> None:
        """Watch a child of this process from its start; called in any thread. It may be killed, and
        waited for by SGLang, before `gather` looks again. `child`: multiprocessing's `Popen`."""
        member = Member(psutil.Process(child.pid), child)
        self._loop.call_soon_threadsafe(self._add, member)

    async def gather(self, built: asyncio.Future[Any]) -> None:
        """Watch new processes as they appear, until the engine is built."""
        while not built.done():
            await self._look()
            await asyncio.sleep(_LOOK_S)

    async def unless_lost(self, built: asyncio.Future[Any]) -> Any:
        """The result of `built`; EngineLost if a process is lost before.

        A process that exits by itself has usually logged why, and SGLang is about to raise, so wait
        a moment for its error. A process that was killed has logged nothing.
        """
        await asyncio.wait({built, self.lost}, return_when=asyncio.FIRST_COMPLETED)
        if not built.done() and self.killed() is None:
            await asyncio.wait({built}, timeout=_FAILED_CHILD_GRACE_S)
        if not built.done():
            raise EngineLost(self.lost.result())
        await self._look()
        return built.result()

    def killed(self) -> str | None:
        """Which process was ended by a signal from outside, if one was.

        SIGQUIT is from inside: a scheduler that fails sends it to the process that started it, and
        the kernel kills what that one has started.
        """
        members = [member for member in self._members.values() if (member.exitcode or 0) < 0]
        if any(member.exitcode == -signals.FAILED_CHILD for member in members):
            return None
        return members[0].end if members else None

    def close(self) -> None:
        """From now on a process's end is expected."""
        self._closing = True
        for member in self._members.values():
            self._loop.remove_reader(member.pidfd)

    async def _look(self) -> None:
        for member in self._members.values():
            member.rename()
        known = self._members.keys() | self._others
        for process in await asyncio.to_thread(_engine_processes, known):
            with contextlib.suppress(psutil.Error, OSError):
                self._add(Member(process))

    def _add(self, member: Member) -> None:
        if member.pid in self._members:  # it was started while the others were looked for
            os.close(member.pidfd)
            return
        self._members[member.pid] = member
        self._loop.add_reader(member.pidfd, self._ended, member)

    def _ended(self, member: Member) -> None:
        self._loop.remove_reader(member.pidfd)
        member.note_end()
        self._lose(member.end)

    def _reported(self) -> None:
        """A process of the engine says that it has failed; it may hang before it ends."""
        log.error("an engine process reports a failure")
        reason = "an engine process has reported a failure, and none has ended"
        self._loop.call_later(_REPORTED_GRACE_S, self._lose, reason)

    def _lose(self, reason: str) -> None:
        if not self._closing and not self.lost.done():
            self.lost.set_result(reason)


async def end_schedulers(manager: Any, watch: Watched) -> None:
    """Ask SGLang's schedulers to end: only then do they release GPU memory and NCCL.

    `manager`: SGLang's TokenizerManager. The controller of several replicas passes it on to each.
    """
    from sglang.srt.managers.io_struct import ShutdownReq

    schedulers = [p for p in watch.processes if p.is_alive() and "scheduler" in p.name]
    if not schedulers:
        return
    manager._dispatch_to_scheduler(ShutdownReq())
    deadline = time.monotonic() + _CLOSE_TIMEOUT_S
    while any(p.is_alive() for p in schedulers) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.05)


def _engine_processes(known: set[int]) -> list[psutil.Process]:
    """The engine's processes that are not known yet."""
    found = []
    for process in psutil.Process().children(recursive=True):
        if process.pid in known:
            continue
        with contextlib.suppress(psutil.Error):
            if _is_engines(process):
                found.append(process)
    return found


def _is_engines(process: psutil.Process) -> bool:
    """SGLang has named it, or the controller has just spawned it, which names it seconds later.

    A compiler that a scheduler runs is not the engine's: its end is no loss. Nor is the copy of a
    scheduler that it is before it has become a compiler.
    """
    command = process.cmdline()
    parent = process.parent()
    above = parent.cmdline() if parent is not None else []
    if command == above:
        return False
    if command[:1] and command[0].startswith("sglang::"):
        return True
    return "--multiprocessing-fork" in command and above[:1] == [_CONTROLLER]


def _title(process: psutil.Process) -> str:
    """Empty once it has ended."""
    with contextlib.suppress(psutil.ZombieProcess):
        return next(iter(process.cmdline()), "")
    return ""


def _status_of_zombie(pid: int) -> int | None:
    """How a process ended that another has started and not waited for yet; as `returncode`."""
    with contextlib.suppress(OSError, ValueError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if fields[0] == "Z":
            return os.waitstatus_to_exitcode(int(fields[-1]))
    return None
