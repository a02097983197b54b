"""Which processes are the engine's, and that the end of each is noticed. The processes are real."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace

import psutil
import pytest

from app.engine.base import EngineLost
from app.engine.sglang import watch as watching
from app.engine.sglang.early import EarlyProcesses
from app.engine.sglang.watch import Member, Watch
from tests.support.processes import alive
from tests.support.serving import HANGS_S, eventually

REPLICAS = ["sglang::data_parallel_controller", "sglang::scheduler_DP0", "sglang::scheduler_DP1"]
COMPILER = "nvcc"
SLEEP = "import time; time.sleep(600)"
# As SGLang's controller: it starts a scheduler for each replica, and watches none of them.
CONTROLLER = f"""
import subprocess, time
for title in {[*REPLICAS[1:], COMPILER]}:
    subprocess.Popen([title, "-c", {SLEEP!r}], executable={sys.executable!r})
time.sleep(600)
"""


class Replicas:
    """An engine of two replicas, and a compiler that one of them runs."""

    def __init__(self) -> None:
        self._controller = subprocess.Popen(
            [REPLICAS[0], "-c", CONTROLLER], executable=sys.executable, start_new_session=True
        )
        self.built: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def titled(self, title: str) -> psutil.Process:
        controller = psutil.Process(self._controller.pid)
        family = (controller, *controller.children())
        return next(each for each in family if _title(each) == title)

    @property
    def complete(self) -> bool:
        children = psutil.Process(self._controller.pid).children()
        return {_title(child) for child in children} == {*REPLICAS[1:], COMPILER}

    async def finish(self, watch: Watch) -> None:
        """The engine is built: `watch` looks a last time."""
        await eventually(lambda: self.complete)
        self.built.set_result("engine")
        assert await watch.unless_lost(self.built) == "engine"

    def end(self) -> None:
        os.killpg(self._controller.pid, signal.SIGKILL)
        self._controller.wait()


@asynccontextmanager
async def replicas(watch: Watch) -> AsyncIterator[Replicas]:
    """Start an engine that `watch` gathers."""
    engine = Replicas()
    gathering = asyncio.create_task(watch.gather(engine.built))
    try:
        async with asyncio.timeout(HANGS_S):
            yield engine
    finally:
        gathering.cancel()
        watch.close()
        engine.end()


def _title(process: psutil.Process) -> str | None:
    """None: it has ended, or is being started."""
    with suppress(psutil.Error, IndexError):
        return process.cmdline()[0]
    return None


def _titles(watch: Watch) -> list[str]:
    return sorted(process.name for process in watch.processes)


@pytest.mark.parametrize("title", REPLICAS)
async def test_the_end_of_any_process_of_the_engine_is_noticed(title: str) -> None:
    watch = Watch()
    async with replicas(watch) as engine:
        await engine.finish(watch)
        assert _titles(watch) == REPLICAS
        victim = engine.titled(title)
        victim.kill()
        reason = await watch.lost
        assert reason == f"an engine process ({title}, pid {victim.pid}): killed by SIGKILL"
        assert watch.killed() == reason
        assert [p.is_alive() for p in watch.processes if p.pid == victim.pid] == [False]


async def test_a_replica_that_is_killed_while_it_loads_ends_the_start() -> None:
    watch = Watch()
    async with replicas(watch) as engine:
        await eventually(lambda: _titles(watch) == REPLICAS)
        engine.titled("sglang::scheduler_DP1").kill()
        with pytest.raises(EngineLost, match=r"scheduler_DP1.*killed by SIGKILL"):
            await watch.unless_lost(engine.built)


async def test_a_process_killed_as_soon_as_it_is_started_ends_the_start() -> None:
    """Whose end has been waited for before the watch looks."""
    watch = Watch()
    built: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(HANGS_S,))
    with EarlyProcesses(0, on_cpu=True).used(watch.started):
        await asyncio.to_thread(process.start)
        process.kill()
        await asyncio.to_thread(process.join)
    gathering = asyncio.create_task(watch.gather(built))
    try:
        async with asyncio.timeout(HANGS_S):
            with pytest.raises(EngineLost, match=r"killed by SIGKILL"):
                await watch.unless_lost(built)
        built.set_exception(EOFError())
        assert watch.killed() is not None
        built.exception()
    finally:
        gathering.cancel()
        watch.close()


def test_how_a_process_ended_is_known_though_another_thread_has_waited_for_it() -> None:
    """Between its wait and its note there is nothing that the kernel could say."""
    process = subprocess.Popen([sys.executable, "-c", SLEEP])
    codes = iter([None, None, None])
    child = SimpleNamespace(poll=lambda: next(codes, process.returncode))
    member = Member(psutil.Process(process.pid), child)
    assert member.exitcode is None
    process.kill()
    process.wait()
    member.note_end()
    assert member.exitcode == -signal.SIGKILL
    assert member.end.endswith("killed by SIGKILL")
    os.close(member.pidfd)


def test_an_end_of_which_nobody_knows_how_is_an_end() -> None:
    process = subprocess.Popen([sys.executable, "-c", SLEEP])
    member = Member(psutil.Process(process.pid), SimpleNamespace(poll=lambda: None))
    process.kill()
    process.wait()
    member.note_end()
    assert member.end.endswith(": ended")
    os.close(member.pidfd)


async def test_the_end_of_a_compiler_that_a_scheduler_runs_is_no_loss() -> None:
    watch = Watch()
    async with replicas(watch) as engine:
        await engine.finish(watch)
        compiler = engine.titled(COMPILER)
        compiler.kill()
        await eventually(lambda: not alive(compiler))
        engine.titled("sglang::scheduler_DP0").kill()
        assert "scheduler_DP0" in await watch.lost


async def test_what_ran_before_the_engine_is_not_the_engines() -> None:
    async with replicas(Watch()) as engine:
        await eventually(lambda: engine.complete)
        late = Watch()
        await engine.finish(late)
        assert _titles(late) == []


async def test_once_the_watch_is_closed_an_end_is_expected() -> None:
    watch = Watch()
    async with replicas(watch) as engine:
        await engine.finish(watch)
        watch.close()
        for title in REPLICAS[1:]:
            engine.titled(title).kill()
        await eventually(lambda: sum(each.is_alive() for each in watch.processes) == 1)
        assert not watch.lost.done()


async def test_a_reported_failure_is_a_loss_if_no_end_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watching, "_REPORTED_GRACE_S", 0.05)
    watch = Watch()
    os.kill(os.getpid(), signal.SIGQUIT)
    async with asyncio.timeout(HANGS_S):
        reason = await watch.lost
    assert reason == "an engine process has reported a failure, and none has ended"


async def test_a_process_that_ends_after_its_report_is_what_was_lost() -> None:
    watch = Watch()
    async with replicas(watch) as engine:
        await engine.finish(watch)
        os.kill(os.getpid(), signal.SIGQUIT)
        engine.titled("sglang::scheduler_DP1").kill()
        assert "scheduler_DP1" in await watch.lost


async def test_a_start_that_fails_from_inside_is_not_taken_for_killed() -> None:
    watch = Watch()
    async with replicas(watch) as engine:
        await eventually(lambda: _titles(watch) == REPLICAS)
        replica = engine.titled(REPLICAS[1])
        engine.titled(REPLICAS[0]).send_signal(signal.SIGQUIT)
        await watch.lost
        replica.kill()  # as the kernel does once its parent is gone
        await eventually(lambda: sum(each.is_alive() for each in watch.processes) == 1)
        assert watch.killed() is None
