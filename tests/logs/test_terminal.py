"""A start and its requests as a person sees them, in a pseudo terminal."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.logs.form import NAME, Form
from app.logs.terminal import HoldingForm
from tests.support.serving import HANGS_S
from tests.support.terminal import ROOT, Terminal, opened

SLOW = ("--engine", "scripted", "--engine-args", '{"loading_s": 1.5}')
PROGRESS = r"^\S loading the model · \d s$"
URL = r"http://127\.0\.0\.1:\d+"
READY = rf"^\d\d:\d\d:\d\d ready on ({URL})/v1 · scripted · 32768 tokens · [\d.]+ s$"


def url_of(terminal: Terminal) -> str:
    found = re.search(READY, terminal.find(READY), re.MULTILINE)
    assert found is not None
    return found[1]


def test_a_start_has_one_line_of_progress_that_ends_with_one_line_of_being_ready() -> None:
    with opened(*SLOW, STORE_URL="memory") as terminal:
        assert len(re.findall(PROGRESS, terminal.find(PROGRESS), re.MULTILINE)) == 1
        terminal.find(READY)
        assert terminal.end() == 0
        *lines, stopped = terminal.lines
    assert not [line for line in lines if re.search("loading|importing|generating", line)]
    assert len([line for line in lines if " ready on " in line]) == 1
    assert " stopped " in stopped


def test_a_request_is_one_line() -> None:
    with opened(*SLOW[:2], columns=200, STORE_URL="memory") as terminal:
        url, body = url_of(terminal), {"messages": [{"role": "user", "content": "hello"}]}
        id = httpx.post(f"{url}/v1/chat/completions", json=body).json()["id"]
        assert httpx.post(f"{url}/v1/chat/completions", json=body | {"n": 0}).status_code == 400
        text = terminal.find("400")
    asked = [line[9:] for line in text.splitlines() if "POST" in line]
    figures = r"200 \d+ ms · 5\+3 tokens · ttft \d+ ms"
    short = id.removeprefix("chatcmpl-")[:12]
    assert re.fullmatch(rf"POST /v1/chat/completions {figures} · {short}", asked[0])
    refused = r"POST /v1/chat/completions 400 \d+ ms · \w{12} · \w+: Invalid value for 'n'"
    assert re.match(refused, asked[1])


def test_a_terminal_that_is_not_read_stops_no_request() -> None:
    with opened(*SLOW[:2], STORE_URL="memory") as terminal:
        url = url_of(terminal)
        with httpx.Client(base_url=url, timeout=HANGS_S) as client:
            for _ in range(500):  # lines of 80 characters; a terminal keeps some 4,000
                assert client.get("/v1/models").status_code == 200


def test_several_processes_say_once_that_they_are_ready() -> None:
    with opened(*SLOW, "--tokenizer-workers", "2", STATE_DIR="/nowhere/at/all") as terminal:
        terminal.find(PROGRESS)
        url_of(terminal)
        assert terminal.end() == 0
        lines = terminal.lines
    assert len([line for line in lines if " ready on " in line]) == 1
    assert not [line for line in lines if "loading the model" in line]


@pytest.mark.parametrize("columns", [20, 60])
def test_the_progress_keeps_to_one_row_of_a_window_that_gets_narrow(columns: int) -> None:
    with opened(*SLOW, STORE_URL="memory") as terminal:
        terminal.find(r"^\S loading the model")
        terminal.resize(columns)
        terminal.find("generating|ready")
        drawn = re.findall(rb"\x1b\[K(\S+ loading [^\r]*)", terminal.written)
        terminal.end()
    assert len(drawn[-1].decode()) < columns


def test_without_colors_there_are_none() -> None:
    for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        with opened(*SLOW[:2], STORE_URL="memory", **environment) as terminal:
            terminal.find(READY)
            terminal.end()
        assert not re.search(rb"\x1b\[\d", terminal.written)
    assert b"\x1b" not in terminal.written  # of a dumb terminal: no progress, either


def test_errors_only_still_says_that_it_is_ready() -> None:
    with opened(*SLOW[:2], STORE_URL="memory", LOG_LEVEL="error") as terminal:
        terminal.find(READY)
        assert len(terminal.lines) == 1
        terminal.end()


def test_a_start_that_fails_shows_what_was_held_back() -> None:
    with opened(*SLOW, "--start-timeout", "0.5", STORE_URL="memory") as terminal:
        assert terminal.ended() == 71
        text = "\n".join(terminal.lines)
    held, _, after = text.partition("\n--\n")
    assert re.search(r"-- \d lines that were held back:$", held, re.MULTILINE)
    assert "uvicorn: Application startup complete." in held
    assert re.search(r"error exiting: START_TIMEOUT: .*\(phase loading\)", after)
    assert not re.search(r"loading the model", text)


@pytest.mark.parametrize("log_format", ["auto", "console", "text"])
def test_a_pipe_gets_neither_progress_nor_escapes(log_format: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "serve_hathora.py"), *SLOW, "--start-timeout", "1"]
    ran = subprocess.run(
        [*command, "--log-format", log_format, "--log-file=", "--store-url", "memory"],
        capture_output=True, text=True, timeout=HANGS_S, cwd=tmp_path,
        env={"PORT": "0", "HOST": "127.0.0.1", "PATH": ""},
    )  # fmt: skip
    assert ran.returncode == 71
    assert "\x1b" not in ran.stdout
    assert "\r" not in ran.stdout
    assert "· 1 s" not in ran.stdout
    assert "phase" in ran.stdout  # nothing is held back
    if log_format == "auto":
        assert all(json.loads(line)["event"] for line in ran.stdout.splitlines())


# -- what is held back ---------------------------------------------------------------------------


def line(event: str, level: str = "info", logger: str = "sglang.srt", **more: Any) -> Any:
    at = "2026-11-27T13:03:12Z"
    return {"event": event, "level": level, "logger": logger, "timestamp": at, **more}


def told(*lines: Any) -> list[str]:
    """What a form that holds back writes, without the times."""
    form = HoldingForm(Form("console"))
    text = "".join([form.text(each) for each in lines])
    return [re.sub(r"^\d\d:03:12 ", "", each) for each in text.splitlines()]


def test_lines_of_libraries_are_held_below_warning_and_shown_before_an_error() -> None:
    assert told(line("Load weight begin."), line("careful", "warning")) == [
        "warning sglang: careful"
    ]
    assert told(line("Load weight begin."), line("broken", "error"), line("and", "error")) == [
        "-- 1 lines that were held back:",
        "sglang: Load weight begin.",
        "--",
        "error sglang: broken",
        "error sglang: and",
    ]


def test_a_bounded_number_is_held() -> None:
    first, *held, _, error = told(*[line(f"no {n}") for n in range(5000)], line("x", "error"))
    assert first == "-- 200 lines (and 4800 before) that were held back:"
    assert (held[0], held[-1]) == ("sglang: no 4800", "sglang: no 4999")
    assert error == "error sglang: x"


@pytest.mark.parametrize(
    "traceback",
    [
        ["Traceback (most recent call last):", '  File "x"', "ValueError: 7"],
        ["[rank0]: Traceback (most recent call last):", '[rank0]:   File "x"', "[rank0]: X: 7"],
        ["  + Exception Group Traceback (most recent call last):", '  |   File "x"', "  | X: 7",
         "  +-+---------------- 1 ----------------", "    | X: 8", "    +-------------------"],
        ["Fatal Python error: Segmentation fault", "Thread 0x1 (most recent call first):",
         '  File "x"', "Current thread 0x2 [main] (most recent call first):", '  File "x"',
         '  File "y"', "Extension modules: torch"],
    ],
)  # fmt: skip
def test_a_traceback_that_is_printed_is_shown_to_its_end(traceback: list[str]) -> None:
    after = ["X: 9", "held"] if traceback[-1].startswith(" ") else ["held"]
    shown = told(*[line(each, logger="output") for each in ["a warning", *traceback, *after]])
    assert shown == [
        "-- 1 lines that were held back:",
        "output: a warning",
        "--",
        *[f"output: {each}" for each in [*traceback, *after[:-1]]],
    ]


def test_a_start_that_is_interrupted_shows_what_was_held_back() -> None:
    assert told(line("hangs"), line("stopped before the model was loaded", logger=NAME)) == [
        "-- 1 lines that were held back:",
        "sglang: hangs",
        "--",
        "stopped before the model was loaded",
    ]


def test_a_wrong_setting_is_one_line() -> None:
    wrong = line("exiting", "error", "serve_hathora", reason="TP_SIZE: no", code=78)
    assert told(line("held"), wrong) == ["error exiting: TP_SIZE: no  code=78"]


def test_lines_of_ours_are_shown_unless_another_line_says_the_same() -> None:
    ours = [line(each, logger="serve_hathora") for each in ("phase", "request started", "asleep")]
    assert told(*ours) == ["asleep"]


def test_a_record_that_cannot_be_rendered_is_shown_all_the_same() -> None:
    record = logging.LogRecord("sglang", logging.WARNING, "", 0, "%d", ("text",), None)
    assert "a line that cannot be formatted" in HoldingForm(Form("console")).text(record)
