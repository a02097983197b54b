"""The engine's child processes: notice their end at once, and end the schedulers."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import time
from typing import Any

import psutil

from app.engine.base import EngineLost, Watched
from app.processes import how_it_ended

_CHILD_POLL_S = 0.2
_FAILED_CHILD_GRACE_S = 8.0
"""SGLang looks every 5 s whether a child that it waits for has ended."""
_CLOSE_TIMEOUT_S = 10.0


class Watch:
    """Notices at once when a child process of the engine ends."""

    def __init__(self) -> None:
        """Children that run already, such as RunPod's heartbeat, are not the engine's."""
        self._loop = asyncio.get_running_loop()
        self._others = {process.pid for process in multiprocessing.active_children()}
        self._seen: dict[int, Any] = {}
        self._closing = False
        self.lost: asyncio.Future[str] = self._loop.create_future()

    @property
    def processes(self) -> list[Any]:
        return list(self._seen.values())

    async def gather(self, built: asyncio.Future[Any]) -> None:
        """Watch new children as they appear, until the engine is built."""
        while not built.done():
            self._look()
            await asyncio.sleep(_CHILD_POLL_S)

    async def unless_lost(self, built: asyncio.Future[Any]) -> Any:
        """The result of `built`; EngineLost if a child is lost before.

        A child that exits by itself has usually logged why, and SGLang is about to raise, so wait a
        moment for its error. A child that was killed has logged nothing.
        """
        await asyncio.wait({built, self.lost}, return_when=asyncio.FIRST_COMPLETED)
        if not built.done() and self.killed() is None:
            await asyncio.wait({built}, timeout=_FAILED_CHILD_GRACE_S)
        if not built.done():
            raise EngineLost(self.lost.result())
        engine = built.result()
        self._look()
        for process in self.processes:
            with contextlib.suppress(psutil.Error):
                process.name = psutil.Process(process.pid).cmdline()[0]  # sglang::scheduler, ...
        return engine

    def killed(self) -> str | None:
        """Which process was ended by a signal from outside, if one was."""
        return next((_how_ended(p) for p in self.processes if (p.exitcode or 0) < 0), None)

    def close(self) -> None:
        """From now on a child's end is expected."""
        self._closing = True
        for process in self.processes:
            self._loop.remove_reader(process.sentinel)

    def _look(self) -> None:
        for process in multiprocessing.active_children():
            if process.pid is not None and process.pid not in self._seen.keys() | self._others:
                self._seen[process.pid] = process
                self._loop.add_reader(process.sentinel, self._ended, process)

    def _ended(self, process: Any) -> None:
        self._loop.remove_reader(process.sentinel)
        process.join(timeout=1)
        if not self._closing and not self.lost.done():
            self.lost.set_result(_how_ended(process))


async def end_schedulers(manager: Any, watch: Watched) -> None:
    """Ask SGLang's schedulers to end: only then do they release GPU memory and NCCL.

    `manager`: SGLang's TokenizerManager.
    """
    from sglang.srt.managers.io_struct import ShutdownReq

    schedulers = [p for p in watch.processes if p.is_alive() and "scheduler" in p.name]
    if not schedulers:
        return
    manager._dispatch_to_scheduler(ShutdownReq())
    deadline = time.monotonic() + _CLOSE_TIMEOUT_S
    while any(p.is_alive() for p in schedulers) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.05)


def _how_ended(process: Any) -> str:
    how = how_it_ended(process.exitcode)
    return f"an engine process ({process.name}, pid {process.pid}): {how}"
