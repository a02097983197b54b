"""A long step of the engine is told from a hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from app.engine.sglang import pulse as pulses
from app.engine.sglang.pulse import Pulse
from tests.support.serving import eventually

BUSY = "while True: pass"
IDLE = "import time; time.sleep(600)"


def _pulse(reader: Any = None, silent_s: float = 0.0, *, on_cpu: bool = True) -> Pulse:
    reader = reader or SimpleNamespace(read_all=list)
    manager = SimpleNamespace(load_snapshot_reader=reader)
    return Pulse(
        manager, os.getpid(), lambda: silent_s, lambda: HEARD.at, lambda: HEARD.searches,
        longest=4096, on_cpu=on_cpu,
    )  # fmt: skip


HEARD = SimpleNamespace(at=0.0, searches=False)


@pytest.fixture
async def pulse() -> AsyncIterator[Pulse]:
    pulse = _pulse()
    yield pulse
    pulse.close()


def _load(replica: int = 0, *, at: float, prefilled: int = 0) -> Any:
    return SimpleNamespace(dp_rank=replica, timestamp=at, total_prefill_uncached_tokens=prefilled)


@contextmanager
def scheduler(code: str, title: str = "sglang::scheduler") -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [title, "-c", f"print(flush=True)\n{code}"], executable=sys.executable,
        stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()  # the interpreter's own start is over
        try:
            yield process
        finally:
            process.kill()


async def test_each_chunk_of_a_long_prompt_is_a_sign_of_work(pulse: Pulse) -> None:
    pulse.note_snapshots([_load(at=1.0, prefilled=2048)], 10.0)
    pulse.note_snapshots([_load(at=2.0, prefilled=4096)], 40.0)
    assert pulse.worked_at == 40.0


async def test_each_shown_step_of_a_search_with_beams_is_a_sign_of_work(pulse: Pulse) -> None:
    pulse.note_snapshots([_load(at=1.0)], 10.0)
    pulse.note_snapshots([_load(at=2.0)], 20.0)
    assert pulse.worked_at == 10.0  # the first look; what others do sends messages
    HEARD.searches = True
    pulse.note_snapshots([_load(at=3.0)], 30.0)
    pulse.note_snapshots([_load(at=3.0)], 40.0)
    HEARD.searches = False
    assert pulse.worked_at == 30.0


async def test_more_than_the_longest_prompt_is_not_read_without_a_word(pulse: Pulse) -> None:
    """Such as by a scheduler that goes on while its detokenizer hangs."""
    for no in range(1, 9):
        pulse.note_snapshots([_load(at=no, prefilled=1024 * no)], 10.0 * no)
    assert pulse.worked_at == 50.0
    HEARD.at = 85.0
    pulse.note_snapshots([_load(at=9, prefilled=1024 * 9)], 90.0)
    assert pulse.worked_at == 90.0
    HEARD.at = 0.0


async def test_while_a_process_is_stopped_nothing_is_a_sign(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pulses, "_LOOK_S", 0.01)
    pulse = _pulse(silent_s=100.0)
    with scheduler(IDLE, "sglang::detokenizer") as stopped:
        stopped.send_signal(signal.SIGSTOP)
        await eventually(lambda: pulse.stopped)
        stopped.send_signal(signal.SIGCONT)
        await eventually(lambda: not pulse.stopped)
    pulse.close()


async def test_a_step_that_should_have_sent_something_is_none(pulse: Pulse) -> None:
    pulse.note_snapshots([_load(at=1.0, prefilled=2048)], 10.0)
    pulse.note_snapshots([_load(at=2.0, prefilled=2048)], 40.0)
    assert pulse.worked_at == 10.0
    assert pulse.slowest_at is None  # a single replica's messages say more


async def test_a_replica_that_stands_still_shows_though_the_others_move(pulse: Pulse) -> None:
    for now in (10.0, 20.0, 30.0):
        pulse.note_snapshots([_load(0, at=now), _load(1, at=1.0)], now)
    assert pulse.slowest_at == 10.0


async def _work(pulse: Pulse) -> bool:
    """Whether a second of the schedulers' processor time shows that they work."""
    pulse.note_times(pulses._times(os.getpid()), time.monotonic())
    await pulses.asyncio.sleep(1)
    pulse.note_times(pulses._times(os.getpid()), time.monotonic())
    return pulse.worked_at > 0


async def test_on_a_processor_a_scheduler_that_computes_works(pulse: Pulse) -> None:
    with scheduler(BUSY):
        assert await _work(pulse)


async def test_a_scheduler_that_ends_steps_and_sends_nothing_does_not_work(pulse: Pulse) -> None:
    """Such as one whose detokenizer stands still."""
    with scheduler(BUSY):
        pulse.note_snapshots([_load(at=1.0)], 0.0)
        pulse.worked_at = 0.0
        pulse.note_snapshots([_load(at=2.0)], time.monotonic())
        assert not await _work(pulse)


async def test_a_scheduler_that_was_stopped_does_not_work(pulse: Pulse) -> None:
    with scheduler(BUSY) as stopped:
        stopped.send_signal(signal.SIGSTOP)
        assert not await _work(pulse)


async def test_a_scheduler_that_waits_for_another_part_of_its_replica_does_not_work(
    pulse: Pulse,
) -> None:
    with scheduler(BUSY, "sglang::scheduler_TP0"), scheduler(IDLE, "sglang::scheduler_TP1"):
        assert not await _work(pulse)


async def test_with_a_gpu_only_a_compiler_below_the_scheduler_works() -> None:
    pulse = _pulse(on_cpu=False)
    with scheduler(BUSY):
        assert not await _work(pulse)
    compiles = f"import subprocess; subprocess.run([{sys.executable!r}, '-c', {BUSY!r}])"
    with scheduler(compiles) as process:
        await eventually(lambda: bool(pulses.psutil.Process(process.pid).children()))
        assert await _work(pulse)
        pulses.psutil.Process(process.pid).children()[0].kill()
    pulse.close()


async def test_with_gpus_a_compiler_speaks_for_all_replicas() -> None:
    """Kernels are compiled under a lock, for which the others wait without any sign."""
    for on_cpu in (False, True):
        pulse = _pulse(on_cpu=on_cpu)
        still = pulses.Times(1, 0.0, 0.0)
        pulse.note_times({1: pulses.Times(0, 0.0, 0.0), 2: still}, 100.0)
        pulse.note_times({1: pulses.Times(0, 0.0, 0.9), 2: still}, 101.0)
        assert set(pulse._shown_at) == ({0} if on_cpu else {0, 1})
        pulse.close()


async def test_the_snapshots_are_looked_at_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulses, "_LOOK_S", 0.01)
    pulse = _pulse(SimpleNamespace(read_all=lambda: [_load(at=1.0, prefilled=1)]))
    await eventually(lambda: pulse.worked_at > 0)
    pulse.close()
