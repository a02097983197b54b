"""The serving process itself: its memory, and how it ends when it cannot wait, leaving nothing
behind."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import multiprocessing
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NoReturn

import psutil

from app.logs import setup as logs


def freeze_heap() -> None:
    """The model is up: what is there now stays, and is not to be walked by each collection.

    And collections come seldom. What a thousand open streams hold outlives the young generation,
    which at the interpreter's own 700 objects is over every few tokens; next to nothing of it is
    ever garbage that only a collection finds. What loading the model needed and gave back (100 MB
    with the demo model) goes back to the system. ENGINE_ARGS's `gc_threshold` has no say here.
    """
    gc.unfreeze()  # SGLang has frozen this process already, garbage and all
    gc.collect()
    with suppress(AttributeError):  # a C library other than glibc
        ctypes.CDLL(None).malloc_trim(0)
    gc.freeze()
    gc.set_threshold(20_000, 5, 10)


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
