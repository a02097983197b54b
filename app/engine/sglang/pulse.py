"""Signs that the engine works though it sends nothing, by which a hang is told from a long step.

Written against sglang 0.5.23; `tests/engine/test_sglang_contract.py` fails first when it changes.

a long prompt    each chunk of a prefill is counted in the snapshot that its scheduler shows in
                 shared memory, up to as many tokens as can be read before some prompt is complete;
                 but on a slow processor a single chunk takes minutes
processor time   so where the model runs on processors, what the schedulers use of it is a sign,
                 while no snapshot says that a step has ended, which should have sent something;
                 with a GPU it is none: a scheduler that waits for the GPU turns in a circle
a compiler       of kernels, below a scheduler, and its processor time; with GPUs for all replicas,
                 which wait for its lock if they need the same kernel
beams            a search sends nothing before its end, but its scheduler shows its steps
one of several   a replica whose snapshot stands still hangs, though the others speak
a stop           while a process of the engine is stopped (SIGSTOP), nothing is a sign
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import psutil

from app import awake

_LOOK_S = 1.0
_SILENT_S = 3.0
"""Processor time is looked at only once the engine has been silent for so long."""
_STEP_S = 10.0
"""A step in which the snapshot stands still for so long is a long one."""
_WORKS = 0.05
"""The share of a processor that a process uses which works; one that hangs uses none."""


class Times(NamedTuple):
    """Processor seconds of one scheduler, and of the processes below it, so far."""

    replica: int
    own: float
    below: float


class Pulse:
    """When the engine last showed that it works, by `awake.now`."""

    def __init__(
        self,
        manager: Any,
        owner: int,
        silent_s: Callable[[], float],
        heard_at: Callable[[], float],
        searches: Callable[[], bool],
        *,
        longest: int,
        on_cpu: bool,
    ) -> None:
        """`manager`: SGLang's TokenizerManager. `owner`: pid of the process that has started the
        engine. `silent_s`: as in `Engine`. `heard_at`: when the engine last sent something.
        `searches`: it searches with beams. `longest`: tokens of the longest prompt, and of what may
        be read beside it. `on_cpu`: the model runs on processors."""
        self._reader = manager.load_snapshot_reader
        self._owner = owner
        self._silent_s, self._heard_at, self._searches = silent_s, heard_at, searches
        self._longest = longest
        self._on_cpu = on_cpu
        self._snapshots: dict[int, float] = {}
        self._moved_at: dict[int, float] = {}
        self._prefilled: dict[int, int] = {}
        self._since: dict[int, tuple[float, int]] = {}
        """Of each replica: when the engine last sent something, and what was read by then."""
        self._times: dict[int, Times] = {}
        self._times_at = 0.0
        self._shown_at: dict[int, float] = {}
        self.worked_at = 0.0
        """When any replica last worked on something that sends no message."""
        self.stopped = False
        """A process of the engine is stopped."""
        self._looking = asyncio.create_task(self._look_on(), name="pulse")

    @property
    def slowest_at(self) -> float | None:
        """When the replica that has been still for longest last moved; None: there is only one."""
        return min(self._shown_at.values()) if len(self._shown_at) > 1 else None

    def close(self) -> None:
        self._looking.cancel()

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            loads = await read_loads(self._reader)
            self.note_snapshots(loads, awake.now())
            if self._silent_s() <= _SILENT_S:
                self.stopped = False
                continue
            self.stopped = await asyncio.to_thread(_stopped, self._owner)
            self.note_times(await asyncio.to_thread(_times, self._owner), awake.now())

    def note_snapshots(self, loads: Sequence[Any], now: float) -> None:
        """`loads`: of each replica, as its scheduler last showed it."""
        for load in loads:
            replica = load.dp_rank
            if self._snapshots.get(replica) != load.timestamp:
                self._snapshots[replica] = load.timestamp
                self._moved_at[replica] = self._shown_at[replica] = now
                if self._searches():
                    self.worked_at = now
            read = load.total_prefill_uncached_tokens
            before, heard_at = self._prefilled.get(replica), self._heard_at()
            self._prefilled[replica] = read
            if self._since.get(replica, (None, 0))[0] != heard_at:
                self._since[replica] = heard_at, read if before is None else before
            if before != read and read - self._since[replica][1] <= self._longest:
                self.worked_at = now

    def note_times(self, times: dict[int, Times], now: float) -> None:
        """`times`: of each scheduler, by pid."""
        least = _WORKS * (now - self._times_at)
        idle: set[int] = set()
        working: set[int] = set()
        compiling = False
        for pid, (replica, own, below) in times.items():
            before = self._times.get(pid)
            if before is None:
                continue
            if below - before.below >= least:
                compiling = True
                working.add(replica)
            elif self._on_cpu and own - before.own >= least:
                working.add(replica)
            else:
                idle.add(replica)
        if self._on_cpu:
            working -= idle  # the parts of one replica work together: one that hangs stops all
        elif compiling:
            working |= idle  # each may wait for the same kernel, which one of them compiles
        for replica in working:
            if now - self._moved_at.get(replica, -math.inf) > _STEP_S:
                self.worked_at = self._shown_at[replica] = now
        self._times, self._times_at = times, now


async def read_loads(reader: Any) -> Sequence[Any]:
    """The snapshot of each replica. A scheduler that was stopped while it wrote holds its lock for
    ever, so it is taken beside the event loop. `Pulse` waits so; requests have LoadReading."""
    if hasattr(reader, "poll"):  # a socket, which belongs to one thread
        return list(reader.read_all())
    return list(await asyncio.to_thread(reader.read_all))


def _stopped(owner: int) -> bool:
    with suppress(psutil.Error):
        for process in psutil.Process(owner).children(recursive=True):
            with suppress(psutil.Error):
                title = (process.cmdline() or [""])[0]
                if title.startswith("sglang::") and process.status() == psutil.STATUS_STOPPED:
                    return True
    return False


def _times(owner: int) -> dict[int, Times]:
    times: dict[int, Times] = {}
    with suppress(psutil.Error):
        for process in psutil.Process(owner).children(recursive=True):
            with suppress(psutil.Error):
                title = (process.cmdline() or [""])[0]
                if title.startswith("sglang::scheduler"):
                    replica = re.search(r"_DP(\d+)", title)
                    used = process.cpu_times()
                    below = used.children_user + used.children_system
                    below += sum(map(_used, process.children(recursive=True)))
                    own = used.user + used.system
                    times[process.pid] = Times(int(replica[1]) if replica else 0, own, below)
    return times


def _used(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        used = process.cpu_times()
        return float(used.user + used.system + used.children_user + used.children_system)
    return 0.0
