"""What passes while the process is frozen counts for no deadline."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from app import awake
from app.awake import Awake, Timer


class Clock:
    """Goes on with the event loop's, and jumps when it is told to."""

    def __init__(self) -> None:
        self.jumped_s = self.wall_jumped_s = 0.0

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time() + self.jumped_s

    def wall(self) -> float:
        return self.monotonic() + self.wall_jumped_s


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    clock = Clock()
    ours = Awake(clock.monotonic, clock.wall)
    monkeypatch.setattr(awake, "AWAKE", ours)
    monkeypatch.setattr(awake, "now", ours.now)
    monkeypatch.setattr(awake, "_LOOK_S", 0.02)
    monkeypatch.setattr(awake, "_LATE_S", 3.02)
    ours.start()
    yield clock
    ours.stop()


async def test_time_stands_still_while_the_process_is_frozen(clock: Clock) -> None:
    before = awake.now()
    clock.jumped_s = 600.0
    assert awake.now() - before < 1.0
    clock.jumped_s += 1.0  # a slow step of the loop is none
    assert 1.0 <= awake.now() - before < 2.0
    clock.jumped_s += 86_400.0
    await asyncio.sleep(0.05)
    assert awake.now() - before < 3.0
    assert awake.AWAKE.frozen_s > 86_000.0


async def test_what_is_to_begin_anew_is_told_once_for_each_thaw(clock: Clock) -> None:
    told: list[str] = []
    end = awake.AWAKE.on_thaw(lambda _: told.append("thawed"))
    clock.jumped_s = 600.0
    awake.now()  # noticed before the look
    await asyncio.sleep(0.06)
    assert told == ["thawed"]
    clock.wall_jumped_s = 3600.0  # a snapshot whose monotonic clock was kept
    await asyncio.sleep(0.06)
    assert told == ["thawed"] * 2
    end()
    clock.jumped_s += 600.0
    await asyncio.sleep(0.06)
    assert told == ["thawed"] * 2


async def test_a_clock_that_is_set_back_tells_nobody(clock: Clock) -> None:
    told: list[str] = []
    awake.AWAKE.on_thaw(lambda _: told.append("thawed"))
    clock.wall_jumped_s = -3600.0
    await asyncio.sleep(0.06)
    assert not told


async def test_a_timer_fires_once_unless_it_is_cancelled() -> None:
    time, fired = asyncio.get_running_loop().time, []
    began = time()
    Timer(0.1, lambda: fired.append(time() - began))
    Timer(0.05, lambda: fired.append(-1.0)).cancel()
    await asyncio.sleep(0.2)
    assert len(fired) == 1
    assert fired[0] >= 0.09


async def test_a_bound_ends_what_takes_too_long_and_can_be_moved() -> None:
    with pytest.raises(TimeoutError):
        async with awake.timeout(0.02):
            await asyncio.sleep(60)
    async with awake.timeout(0.02) as bound:
        bound.end_in(60)
        await asyncio.sleep(0.05)
    async with awake.timeout(0.0):
        pass  # done before the loop runs


FROZEN = """
import asyncio, sys
from app import awake

async def main():
    awake.AWAKE.start()
    fired = []
    awake.Timer(2.0, lambda: fired.append("timer"))
    begun = awake.now()
    print("> ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)  # what comes first after the thaw
    print(">", round(awake.now() - begun, 1), fired, awake.AWAKE.frozen_s > 3, flush=True)
    await asyncio.sleep(2.5)
    print(">", fired, flush=True)

asyncio.run(main())
"""


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", FROZEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_process_that_was_stopped_and_goes_on_has_its_deadlines_anew(
    process: subprocess.Popen[str],
) -> None:
    assert process.stdin is not None
    said = _said(process)
    assert next(said) == "ready"
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(5)
    process.stdin.write("\n")
    process.stdin.flush()
    os.kill(process.pid, signal.SIGCONT)
    passed, *rest = next(said).split()
    assert float(passed) < 2.0
    assert rest == ["[]", "True"]
    assert next(said) == "['timer']"


def _said(process: subprocess.Popen[str]) -> Iterator[str]:
    """Without its log."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("> "):
            yield line[2:-1]
