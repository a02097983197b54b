"""Ending a process that a test has started, and the processes that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess

import psutil


def stop(process: subprocess.Popen[bytes], within_s: float = 60) -> None:
    """Ask it to end; kill its process group if it does not. It must have a session of its own."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def alive(process: psutil.Process) -> bool:
    """Whether it runs. It may end, and be waited for by its parent, at any moment."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def command_line(process: psutil.Process) -> list[str]:
    """Empty if it has ended: between its being listed and its being looked at, any may."""
    with contextlib.suppress(psutil.NoSuchProcess):  # a zombie is one, too
        return list(process.cmdline())
    return []


def title(process: psutil.Process) -> str:
    return " ".join(command_line(process))


def kill(process: subprocess.Popen[bytes]) -> None:
    """End it at once, its descendants first."""
    if process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        process.kill()
    process.wait()
