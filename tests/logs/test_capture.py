"""Nothing but the writer's thread writes outside: children's lines and prints come by a pipe."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.logs import family
from tests.support.processes import kill
from tests.support.serving import HANGS_S

ROOT = Path(__file__).parents[2]
MUCH = """
for no in range(4000):
    log.info("a line of the scheduler, which has a number: %d", no)
    print("raw text of a library, as long as a line", no, file=sys.stderr, flush=True)
"""


@contextmanager
def started(folder: Path, *programs: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    settings = {
        "LOG_FILE": "", "LOG_FORMAT": "json", "ENGINE": "scripted", "TMPDIR": str(folder),
        **environment,
    }  # fmt: skip
    with subprocess.Popen(
        family.command(*programs),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            yield process
        finally:
            kill(process)


def output(folder: Path, *programs: str, **environment: str) -> str:
    with started(folder, *programs, **environment) as process:
        out, _ = process.communicate(timeout=HANGS_S)
    assert process.returncode == 0, out.decode()
    return out.decode()


def lines(folder: Path, *programs: str) -> list[dict[str, Any]]:
    parsed = [json.loads(line) for line in output(folder, *programs).splitlines()]
    for line in parsed:
        assert {"event", "level", "logger", "timestamp"} <= line.keys()
    return [line for line in parsed if line["logger"] != "serve_hathora"]


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + HANGS_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_log_reader_that_stops_does_not_stop_an_engine_process(tmp_path: Path) -> None:
    with started(tmp_path, MUCH) as process:  # its output is not read
        wait_for((tmp_path / "ended").exists)
        assert (tmp_path / "ended").read_text() == "0"
        assert process.wait(HANGS_S) == 0


def test_a_log_file_on_a_disk_that_hangs_does_not_stop_an_engine_process(tmp_path: Path) -> None:
    os.mkfifo(file := tmp_path / "serve.log")
    reader = os.open(file, os.O_RDWR)  # it reads nothing, so that writes wait for ever
    with started(tmp_path, MUCH, LOG_FILE=str(file)):
        wait_for((tmp_path / "ended").exists)
    os.close(reader)


def test_lines_and_prints_of_a_child_are_lines_of_the_log(tmp_path: Path) -> None:
    program = """
log.warning("loading %s", "weights")
print("from a library", flush=True)
os.write(2, b"from C++\\n\\n  12%\\r 100%\\n")
os.system("echo from a grandchild")
os.write(1, b"no end")
"""
    first, *raw = lines(tmp_path, program)
    assert (first["event"], first["logger"], first["level"]) == (
        "loading weights", "sglang.srt", "warning",
    )  # fmt: skip
    assert [line["event"] for line in raw] == [
        "from a library", "from C++", " 100%", "from a grandchild", "no end",
    ]  # fmt: skip
    assert {line["logger"] for line in raw} == {"output"}


def test_the_console_has_them_in_its_own_form(tmp_path: Path) -> None:
    program = """
try:
    raise ValueError("broken")
except ValueError:
    log.exception("failed")
print("from a library\\x1b[2J")
"""
    out = output(tmp_path, program, LOG_FORMAT="console", LOG_FILE="serve.log")
    assert " error sglang: failed\n    Traceback" in out
    assert "\n    ValueError: broken\n" in out
    assert " output: from a library\\x1b[2J" in out
    file = [json.loads(line) for line in (tmp_path / "serve.log").read_text().splitlines()]
    assert [line["event"] for line in file[-2:]] == ["failed", "from a library\x1b[2J"]


def test_long_lines_of_several_processes_are_not_mixed(tmp_path: Path) -> None:
    program = """
for no in range(50):
    log.info(f"{no} " + "%d " % os.getpid() * 1500)
"""
    events = [line["event"].split() for line in lines(tmp_path, *[program] * 4)]
    assert len(events) == 200
    for number, *rest in events:
        assert (len(rest), len(set(rest))) == (1500, 1), number


def test_of_a_very_long_line_the_middle_is_missing(tmp_path: Path) -> None:
    program = 'log.error("begin" + "x" * 1_000_000 + "end")'
    (line,) = lines(tmp_path, program)
    assert line["event"].startswith("beginxxx")
    assert line["event"].endswith("xxxend")
    assert len(line["event"]) < 16_384


def test_a_print_without_a_line_break_is_cut(tmp_path: Path) -> None:
    parts = lines(tmp_path, 'print("x" * 100_000)')
    assert "".join(line["event"] for line in parts) == "x" * 100_000
    assert len(parts) > 5


@pytest.mark.parametrize(
    ("program", "explained"),
    [
        ('log.error("Scheduler hit an exception: Traceback\\n  x = 1\\nValueError: 7\\n  ^^^")',
         "ValueError: 7"),
        ('log.error("out of memory"); log.info("then this"); print("and that")', "out of memory"),
        ("import json.nothing", "ModuleNotFoundError: No module named 'json.nothing'"),
        ('log.error("no such file"); raise SystemError', "no such file"),
        ('log.warning("nothing")', "None"),
    ],
)  # fmt: skip
def test_the_last_error_of_a_child_explains_a_failed_start(
    tmp_path: Path, program: str, explained: str
) -> None:
    output(tmp_path, program)
    assert (tmp_path / "explained").read_text() == explained


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_an_engine_process_goes_on_logging_when_its_server_does_not(
    tmp_path: Path, number: signal.Signals
) -> None:
    program = """
import pathlib, time
pathlib.Path("started").touch()
while not os.path.exists("go"):
    time.sleep(0.01)
for no in range(20_000):
    log.info("a line that no process reads: %d", no)
pathlib.Path("survived").touch()
"""
    with started(tmp_path, program) as process:
        wait_for((tmp_path / "started").exists)
        process.send_signal(number)
        (tmp_path / "go").touch()
        wait_for((tmp_path / "survived").exists)


PREPARED = """
import os, sys
from app.command import roles
from app.settings.load import load
roles._prepared(load({}), several=False)
print("before it", file=sys.stderr)
"""


def end_of(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PREPARED + program],
        capture_output=True, text=True, cwd=folder, timeout=HANGS_S,
        env={
            **os.environ, "PYTHONPATH": str(ROOT), "LOG_FILE": "", "ENGINE": "scripted",
            "TMPDIR": str(folder),
        },
    )  # fmt: skip


def test_an_error_that_ends_the_serving_process_is_in_the_log(tmp_path: Path) -> None:
    ran = end_of('raise RuntimeError("unexpected")', tmp_path)
    assert ran.returncode == 1
    assert '"before it"' in ran.stdout
    assert '"RuntimeError: unexpected"' in ran.stdout


def test_a_crash_of_the_serving_process_says_where(tmp_path: Path) -> None:
    ran = end_of("os.abort()", tmp_path)
    assert ran.returncode == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in ran.stderr
