"""Processes of this program: starting one, what its exit status says, ending what is left."""

from __future__ import annotations

import multiprocessing
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from app.logs import setup as logs

ROOT = Path(__file__).parents[1]
"""The folder of serve_hathora.py, from which `python -m app...` works."""
_FILES, _STACK_BYTES = 65_535, 65_535 * 1024
"""As SGLang raises them for itself and what it starts (0.5.23: `set_ulimit`)."""
_ROUNDS_WITHOUT = 2
_ROUND_S = 0.01


def start(
    arguments: Sequence[str],
    *role: str,
    pass_fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
    new_session: bool = False,
) -> subprocess.Popen[bytes]:
    """Start this program once more, with the command line that this process was given.

    `role`: the flags that say what the new process is. `pass_fds`: what it inherits. `new_session`:
    Ctrl-C does not reach it.
    """
    command = [sys.executable, str(ROOT / "serve_hathora.py"), "serve", *role, *arguments]
    stdout, stderr = logs.outside()  # it has a log of its own
    return subprocess.Popen(
        command,
        pass_fds=pass_fds,
        env=env,
        start_new_session=new_session,
        stdout=stdout,
        stderr=stderr,
    )


def inherited_socket(fd: int) -> socket.socket:
    """The socket that this process was started with; its own children do not inherit it."""
    end = socket.socket(fileno=fd)
    end.set_inheritable(False)
    return end


def how_it_ended(status: int | None) -> str:
    """`exit 70` or `killed by SIGKILL`. `status`: as `Popen.returncode`, negative for a signal."""
    if status is None or status >= 0:
        return f"exit {status}"
    return f"killed by {signal_name(-status)}"


def signal_name(number: int) -> str:
    """`SIGKILL`; the number of one that has no name here."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def raise_limits() -> None:
    """Let this process, and what it starts, have the files and stacks that an engine may need."""
    for limit, least in ((resource.RLIMIT_NOFILE, _FILES), (resource.RLIMIT_STACK, _STACK_BYTES)):
        soft, hard = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY and soft < least:
            most = least if hard == resource.RLIM_INFINITY else min(least, hard)
            resource.setrlimit(limit, (most, hard))


def kill_children(timeout_s: float = 1.0) -> tuple[int, int]:
    """SIGKILL to every descendant, reaped; returns how many there were, and how many still live.

    Another thread may be spawning some meanwhile, so this is over when none is left twice in a row.
    """
    deadline = time.monotonic() + timeout_s
    seen: set[int] = set()
    rounds_without = 0
    alive: list[psutil.Process] = []
    while rounds_without < _ROUNDS_WITHOUT:
        children = psutil.Process().children(recursive=True)
        seen |= {child.pid for child in children}
        for child in children:
            with suppress(psutil.Error):
                child.kill()
        _, alive = psutil.wait_procs(children, timeout=max(0.0, deadline - time.monotonic()))
        for process in multiprocessing.active_children():
            process.join(timeout=0.1)
        if time.monotonic() > deadline:
            break
        rounds_without = 0 if children else rounds_without + 1
        time.sleep(_ROUND_S)
    return len(seen), len(alive)
