"""Processes that import SGLang before there is anything for them to do.

SGLang imports for ten seconds in this process, then starts its schedulers and its detokenizer, each
of which imports the same for as long. Here they are started first, so that all import at once:

    this process    import torch ─ import SGLang ─ options ─ Process.start ─────> wait
    early process   import torch ─ import SGLang ──────────── what to run ─> load the model

`multiprocessing` starts a process by sending what it runs through a pipe; so it may have been
started long before. It is a child of this process as any other, with an interpreter and a GPU of
its own. Its environment is that of its start and of its imports: what differs from the parent's is
set before it runs, and if that could have mattered to an import, it begins anew (early_child.py).

Written against Python 3.11, `multiprocessing/popen_spawn_posix.py` and `popen_forkserver.py`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import pickle
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker, spawn
from pathlib import Path
from typing import Any

context, forkserver, reduction, spawned, util = (  # whose types leave out what is used here
    importlib.import_module(f"multiprocessing.{name}")
    for name in ("context", "popen_forkserver", "reduction", "popen_spawn_posix", "util")
)
_START = (
    "import sys; sys.path[:] = {path!r}; from app.engine.sglang.early_child import main; main()"
)
_NUMA = Path("/sys/devices/system/node/node1")
"""There if memory is nearer to some processors than to others."""


class EarlyProcess:
    """Imports SGLang, then waits for what to run."""

    def __init__(self, *, on_cpu: bool) -> None:
        """It is killed when the calling thread ends, and has the signals blocked that it has.
        `on_cpu`: for which device it imports."""
        ours, theirs = socket.socketpair()
        tracker = resource_tracker.getfd()
        # The paths of this process, as multiprocessing gives them to its children: not also the
        # working directory. "--multiprocessing-fork" is how such a process is known.
        start = _START.format(path=spawn.get_preparation_data("early")["sys_path"])
        command = [
            sys.executable, *util._args_from_interpreter_flags(), "-c", start,
            "--multiprocessing-fork", str(theirs.fileno()), str(tracker),
            "cpu" if on_cpu else "",
        ]  # fmt: skip
        with theirs:
            self.pid = util.spawnv_passfds(
                os.fsencode(sys.executable), command, [theirs.fileno(), tracker]
            )
        self._ended = False
        self._socket = ours
        """Open as long as this process lives, by which the other knows that it does."""

    def is_alive(self) -> bool:
        if not self._ended:
            try:
                self._ended = os.waitpid(self.pid, os.WNOHANG) != (0, 0)
            except ChildProcessError:  # the kernel waits for it: SIGCHLD is ignored
                self._ended = True
        return not self._ended

    def hand_over(self, fds: list[int]) -> None:
        """What it shall run comes through the first of `fds`."""
        message = pickle.dumps((len(fds), dict(os.environ)))
        self._socket.sendall(len(message).to_bytes(4, "big") + message)
        reduction.sendfds(self._socket, fds)

    def close(self) -> None:
        self._socket.close()

    def end(self) -> None:
        """Of one that runs nothing."""
        self.close()
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
            self._ended = True


class EarlyProcesses:
    """Those of one start of an engine."""

    def __init__(self, count: int, *, on_cpu: bool) -> None:
        self._waiting = [EarlyProcess(on_cpu=on_cpu) for _ in range(count)]

    @contextlib.contextmanager
    def used(self, started: Callable[[Any], object]) -> Iterator[None]:
        """Inside, `multiprocessing` takes them, in their order, for the processes that it starts.
        Those that are left end with it. `started` is called with the `Popen` of each process
        before any other code can have waited for its end."""
        theirs = context.SpawnProcess._Popen

        def popen(process_obj: Any) -> Any:
            process = self._popen(process_obj)
            started(process)
            return process

        try:
            context.SpawnProcess._Popen = staticmethod(popen)
            yield
        finally:
            context.SpawnProcess._Popen = staticmethod(theirs)
            self.end()

    def end(self) -> None:
        for process in self._waiting:
            process.end()
        self._waiting.clear()

    def _popen(self, process_obj: Any) -> Any:
        # SGLang has put numactl in front of this one; the next may be one without.
        fits = os.fsencode(spawn.get_executable()) == os.fsencode(sys.executable)
        while self._waiting and fits:
            process = self._waiting.pop(0)
            if process.is_alive():
                return _Popen(process_obj, process)
            process.end()
        return spawned.Popen(process_obj)


def is_bound_to_memory() -> bool:
    """SGLang starts its schedulers through numactl on this machine, as far as is known."""
    return _NUMA.exists() and shutil.which("numactl") is not None


class _Popen(spawned.Popen):  # type: ignore[name-defined,misc]
    """Starts a process that runs already."""

    DupFd = forkserver._DupFd
    """Of a descriptor: the child finds it by its place in what it was sent."""

    def __init__(self, process_obj: Any, process: EarlyProcess) -> None:
        self._process = process
        super().__init__(process_obj)

    def duplicate_for_child(self, fd: int) -> int:
        self._fds.append(fd)
        return len(self._fds) - 1

    def _launch(self, process_obj: Any) -> None:
        content = io.BytesIO()
        context.set_spawning_popen(self)
        try:
            reduction.dump(spawn.get_preparation_data(process_obj._name), content)
            reduction.dump(process_obj, content)
        finally:
            context.set_spawning_popen(None)
        # The child's end of the first is closed by the child's end, that of the second by ours.
        parent_r, child_w = os.pipe()
        child_r, parent_w = os.pipe()
        self.sentinel, self.pid = parent_r, self._process.pid
        self.finalizer = util.Finalize(self, _close, [self._process, parent_r, parent_w])
        # One that has been killed by now has been started all the same: its end is noticed.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            try:
                self._process.hand_over([child_r, child_w, *self._fds])
            finally:
                os.close(child_r)
                os.close(child_w)
            with open(parent_w, "wb", closefd=False) as pipe:
                pipe.write(content.getbuffer())


def _close(process: EarlyProcess, *fds: int) -> None:
    process.close()
    util.close_fds(*fds)
