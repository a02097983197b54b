"""How the serving process ends when it cannot wait: nothing of it may be left behind."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NoReturn

import psutil

from app import logs


def exit_now(code: int, cleanup: Callable[[], None]) -> NoReturn:
    """Leave no process behind, and go. The interpreter's own way out would wait for threads that
    are inside other libraries."""
    try:
        kill_children()
        cleanup()
        logs.flush()
    finally:
        os._exit(code)


def kill_children() -> None:
    """SIGKILL to every descendant, reaped."""
    children = psutil.Process().children(recursive=True)
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(children, timeout=1.0)
    for process in multiprocessing.active_children():
        process.join(timeout=0.1)


async def first_of(*awaited: Awaitable[object]) -> None:
    """Wait until one is done; those that were only coroutines are cancelled, tasks go on."""
    tasks = {asyncio.ensure_future(each) for each in awaited}
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks.difference(each for each in awaited if isinstance(each, asyncio.Future)):
        task.cancel()
