"""The event loop of a process, and what it does not wait for."""

from __future__ import annotations

import asyncio
import threading

import pytest

from app.loop import run_loop


def test_the_end_waits_for_no_thread() -> None:
    hangs, ended = threading.Event(), threading.Event()

    def hang() -> None:
        hangs.wait(20)
        ended.set()

    async def main() -> int:
        asyncio.get_running_loop().run_in_executor(None, hang)
        return 3

    assert run_loop(main()) == 3
    assert not ended.is_set()
    hangs.set()


def test_an_error_waits_for_no_thread_either() -> None:
    hangs, ended = threading.Event(), threading.Event()

    def hang() -> None:
        hangs.wait(20)
        ended.set()

    async def main() -> int:
        asyncio.get_running_loop().run_in_executor(None, hang)
        raise OSError("it failed")

    with pytest.raises(OSError, match="it failed"):
        run_loop(main())
    assert not ended.is_set()
    hangs.set()
