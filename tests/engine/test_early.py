"""Processes that wait for what multiprocessing starts."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import connection
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.engine.sglang import early, early_child
from tests.support.serving import settings

ROOT = Path(__file__).parents[2]
SPAWN = multiprocessing.get_context("spawn")
HANGS_S = 300.0
"""Two processes import SGLang at once, beside whatever else the machine does."""


@contextmanager
def two() -> Iterator[early.EarlyProcesses]:
    """Not a fixture: pytest has another variable in a test than before it."""
    started = early.EarlyProcesses(2, on_cpu=False)
    try:
        yield started
    finally:
        started.end()


def say(writer: Any, name: str) -> None:
    writer.send((os.getpid(), os.environ.get(name), multiprocessing.parent_process() is not None))
    writer.close()


def leave(code: int) -> None:
    sys.exit(code)


def wait() -> None:
    time.sleep(HANGS_S)


def said(name: str = "HOME") -> tuple[int, Any]:
    """Pid and what a process has received and seen."""
    reader, writer = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=say, args=(writer, name))
    process.start()
    writer.close()
    assert reader.poll(HANGS_S)
    answer = reader.recv()
    process.join(HANGS_S)
    assert process.exitcode == 0
    assert answer[0] == process.pid
    assert process.pid is not None
    return process.pid, answer[1:]


def tell(writer: Any) -> None:
    """What this process had before it was told what to run."""
    writer.send(("sglang.srt.managers.scheduler" in sys.modules, sys.path, sys.flags.isolated))
    writer.close()


def waiting(processes: early.EarlyProcesses) -> list[int]:
    return [process.pid for process in processes._waiting]


def test_a_process_that_is_started_is_one_that_waits() -> None:
    with two() as processes, processes.used(print):
        first, last = waiting(processes)
        pid, (home, has_parent) = said()
        assert (pid, home, has_parent) == (first, os.environ.get("HOME"), True)
        assert psutil.pid_exists(last)
    assert not psutil.pid_exists(last)
    assert said()[0] not in (first, last)


def test_how_it_ends_is_known() -> None:
    with two() as processes, processes.used(print):
        left = SPAWN.Process(target=leave, args=(7,))
        left.start()
        left.join(HANGS_S)
        assert left.exitcode == 7
        killed = SPAWN.Process(target=wait)
        killed.start()
        assert killed.is_alive()
        assert killed.pid is not None
        os.kill(killed.pid, signal.SIGKILL)
        assert connection.wait([killed.sentinel], HANGS_S) == [killed.sentinel]
        killed.join(HANGS_S)
        assert killed.exitcode == -signal.SIGKILL


@pytest.mark.full
def test_it_has_imported_sglang_by_the_paths_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue.py").write_text("raise ImportError('of the working directory')")
    monkeypatch.chdir(tmp_path)
    with two() as processes, processes.used(print):
        reader, writer = SPAWN.Pipe(duplex=False)
        process = SPAWN.Process(target=tell, args=(writer,))
        process.start()
        writer.close()
        assert reader.poll(HANGS_S)
        imported, path, _ = reader.recv()
        process.join(HANGS_S)
    assert imported
    assert set(path) <= {*sys.path, str(ROOT)}
    assert "" not in path


def test_one_that_is_killed_before_it_is_told_what_to_run_was_started_and_has_ended() -> None:
    started: list[Any] = []
    with two() as processes, processes.used(started.append):
        first = processes._waiting[0]
        os.kill(first.pid, signal.SIGKILL)
        os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
        first.is_alive = lambda: True  # type: ignore[method-assign]  # as it was a moment before
        process = SPAWN.Process(target=wait)
        process.start()
        process.join(HANGS_S)
    assert [popen.pid for popen in started] == [first.pid]
    assert process.exitcode == -signal.SIGKILL


def test_where_numactl_stands_in_front_only_the_others_are_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with two() as processes, processes.used(print):
        pids = waiting(processes)
        monkeypatch.setattr("multiprocessing.spawn._python_exe", b"/bin/false")
        behind = SPAWN.Process(target=wait)
        behind.start()
        behind.join(HANGS_S)
        assert behind.exitcode == 1
        monkeypatch.undo()
        assert said()[0] == pids[0]


@pytest.mark.parametrize(
    ("options", "early"),
    [
        ({}, 1),
        ({"DETOKENIZER_PROCESS": "true"}, 2),
        ({"TOKENIZER_WORKERS": "2", "STORE_URL": "off"}, 2),
        ({"TP_SIZE": "4"}, 4),
        ({"TP_SIZE": "4", "PP_SIZE": "2"}, 8),
        ({"ENGINE_ARGS": '{"tp_size": 3}'}, 3),
        ({"DP_SIZE": "2", "TP_SIZE": "4"}, 1),
        ({"TP_SIZE": "8", "NNODES": "2", "DIST_INIT_ADDR": "a:1"}, 4),
        ({"TP_SIZE": "8", "NNODES": "2", "NODE_RANK": "1", "DIST_INIT_ADDR": "a:1"}, 4),
        ({"TP_SIZE": "auto"}, 1),
    ],
)
@pytest.mark.full
def test_so_many_are_started_early_as_sglang_will_start(
    options: dict[str, str], early: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.engine.sglang import launch

    for bound in (False, True):
        monkeypatch.setattr(launch, "is_bound_to_memory", lambda: bound)  # noqa: B023
        detokenizer = "DETOKENIZER_PROCESS" in options or "TOKENIZER_WORKERS" in options
        expected = early if not bound or "DP_SIZE" in options else int(detokenizer)
        assert launch._early(settings(**options), on_cpu=False) == expected
        assert launch._early(settings(**options), on_cpu=True) == early


def test_what_an_import_may_have_read_is_read_anew(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with two() as processes, processes.used(print):
        first, last = waiting(processes)
        monkeypatch.setenv("SERVE_SOMETHING", "late")
        assert said("SERVE_SOMETHING") == (first, ("late", True))
        assert "anew" not in capfd.readouterr().out
        monkeypatch.setenv("TRITON_CACHE_DIR", "/elsewhere")
        assert said("TRITON_CACHE_DIR") == (last, ("/elsewhere", True))
        assert "begins anew, for its variables: TRITON_CACHE_DIR" in capfd.readouterr().out


def test_a_variable_matters_if_its_value_is_another_and_an_import_may_read_it() -> None:
    own = {"A": "1", "OWN": "x"}
    assert early_child.changed(own, {"A": "1", "NCCL_X": "1"}) == []
    assert early_child.changed(own, {"A": "0", "B": "0"}) == ["A", "B"]


def test_a_process_that_was_started_for_another_device_begins_anew() -> None:
    cpu = {"SGLANG_USE_CPU_ENGINE": "1"}
    assert early_child.changed(cpu, {}) == ["SGLANG_USE_CPU_ENGINE"]
    assert early_child.changed({}, cpu) == ["SGLANG_USE_CPU_ENGINE"]
    assert early_child.changed(cpu, cpu) == []


def test_without_one_that_waits_a_process_is_started_as_ever() -> None:
    with two() as processes, processes.used(print):
        pids = waiting(processes)
        os.kill(pids[0], signal.SIGKILL)
        os.waitid(os.P_PID, pids[0], os.WEXITED | os.WNOWAIT)
        assert said()[0] == pids[1]
        assert said()[0] not in pids


def test_none_outlives_the_process_that_has_started_it(tmp_path: Path) -> None:
    """However it ends, and whatever they do meanwhile."""
    script = tmp_path / "starts.py"
    script.write_text(
        f"import sys, time; sys.path.insert(0, {str(ROOT)!r})\n"
        "from app.engine.sglang.early import EarlyProcesses\n"
        "early = EarlyProcesses(2, on_cpu=False)\n"
        "print(*[each.pid for each in early._waiting], flush=True)\n"
        "time.sleep(1000)\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        started = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        assert len(started) == 2
        parent.kill()
    gone, alive = psutil.wait_procs(started, timeout=10)  # to import takes longer
    assert (len(gone), alive) == (2, [])
