"""The event loop of a process that is in it until its end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvloop


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
