"""A process that tries untrusted input, one piece at a time. process.py starts it.

Standard input: what it is set up with on the first line, then one `Task` on each. Standard output:
an `Outcome` when it is up, then one for each task. The process ends when its input does.

Each task is done in a child of its own, forked from here with everything loaded: it may take too
much processor time or memory, or crash, as libraries written for trusted input do.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

T = TypeVar("T")


class Task(msgspec.Struct):
    cpu_s: float
    """Of processor time."""
    input: msgspec.Raw


class Outcome(msgspec.Struct, omit_defaults=True):
    """One field is set, but for the first of a process that is up."""

    output: msgspec.Raw = msgspec.Raw()
    unusable: str | None = None
    """Why the process can do nothing."""
    too_slow: bool = False
    crashed: bool = False


class Unusable(Exception):
    """What the process was set up with cannot be used, now and later."""


def serve(
    set_up: Callable[[bytes], T],
    run: Callable[[T, bytes], bytes],
    *,
    memory_bytes: Callable[[T], int],
) -> None:
    """The main function of such a process.

    `set_up` makes what `run` needs, or raises Unusable; `run` takes a task's input and returns its
    output, both JSON. `memory_bytes`: what each task may take beside what is loaded then.
    """
    # Of what reaches the whole group, such as Ctrl-C, only the server takes notice: it drains.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out = os.dup(1)
    try:
        state = set_up(sys.stdin.buffer.readline())
    except Unusable as unusable:
        _write(out, Outcome(unusable=str(unusable)))
        sys.exit(1)
    _limit_memory(memory_bytes(state))
    _write(out, Outcome())
    for line in sys.stdin.buffer:
        task = msgspec.json.decode(line, type=Task)
        child = os.fork()
        if child == 0:
            signal.setitimer(signal.ITIMER_PROF, task.cpu_s)  # SIGPROF ends it
            output = run(state, bytes(task.input))
            signal.setitimer(signal.ITIMER_PROF, 0)
            _write(out, Outcome(output=msgspec.Raw(output)))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status != 0:
            slow = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF
            _write(out, Outcome(too_slow=slow, crashed=not slow))


def _write(out: int, outcome: Outcome) -> None:
    data = msgspec.json.encode(outcome) + b"\n"
    while data:
        data = data[os.write(out, data) :]


def _limit_memory(more_bytes: int) -> None:
    """Let the address space of each child grow by so much."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
