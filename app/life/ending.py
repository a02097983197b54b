"""Ends a process that cannot wait for its threads, nor for the interpreter to exit."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import uvloop

from app.logs import setup as logs
from app.processes import kill_children


def run_loop(main: Coroutine[Any, Any, int]) -> int:
    """Run `main` in an event loop of its own. Waits for no thread: after this the process is to end
    by `os._exit`."""

    async def run() -> int:
        try:
            return await main
        finally:
            # The runner waits for the threads of the loop's executor, however long: for a file on
            # a share that hangs, or for a cloud's API. This one has none.
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


def exit_now(code: int, cleanup: Callable[[], None]) -> NoReturn:
    """Kill the child processes and exit at once. The interpreter's own exit would wait for threads
    that run code of other libraries."""
    try:
        kill_children()
        logs.flush()
        cleanup()  # last: until the end the engine's thread may go on, and write
    finally:
        os._exit(code)
