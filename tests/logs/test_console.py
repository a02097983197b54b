"""The form of a line for people."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from app.logs.form import Form
from app.logs.progress import Progress, ProgressLine

ID = "7fdc5f9412f343e99288a151ddf4900b"
CHAT = {
    "client": "127.0.0.1", "method": "POST", "path": "/v1/chat/completions", "status": 200,
    "duration_ms": 5080.4, "id": f"chatcmpl-{ID}", "model": "sglang", "messages": 1, "n": 1,
    "max_tokens": 8, "stream": True, "prompt_tokens": 37, "completion_tokens": 8,
    "cached_tokens": 36, "ttft_ms": 111.6, "finish_reason": "stop", "event": "request finished",
    "request_id": ID,
}  # fmt: skip
REFUSED = {
    "client": "127.0.0.1", "method": "POST", "path": "/v1/chat/completions", "status": 400,
    "duration_ms": 1.7, "param": "temperature", "ended_by": "decimal_above_max_value",
    "error": "Invalid value for 'temperature': must be at most 2.0.",
    "event": "request finished", "request_id": ID,
}  # fmt: skip
READY = {
    "event": "ready", "url": "http://0.0.0.0:8000/v1", "model": "SmolLM2-135M-Instruct",
    "context_length": 8192, "seconds": 47.2,
}  # fmt: skip


def console(line: dict[str, Any], *, colors: bool = False) -> str:
    """The text without its time."""
    made = {"logger": "serve_hathora", "level": "info", "timestamp": "2026-11-27T13:03:12.5Z"}
    text = Form("console", colors=colors).text(made | line)
    time, _, rest = text.partition(" ")
    assert re.fullmatch(r"(\x1b\[2m)?\d\d:03:12(\x1b\[0m)?", time)
    return rest.removesuffix("\n")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (CHAT, "POST /v1/chat/completions 200 5.08 s · 37+8 tokens · ttft 112 ms · 7fdc5f9412f3"),
        (CHAT | {"finish_reason": "length", "request_id": "my-own-id-77", "path": "/v1/messages"},
         "POST /v1/messages 200 5.08 s · 37+8 tokens · ttft 112 ms · length · my-own-id-77"),
        (REFUSED, "POST /v1/chat/completions 400 2 ms · 7fdc5f9412f3 · decimal_above_max_value: "
         "Invalid value for 'temperature': must be at most 2.0."),
        (REFUSED | {"error": "It is too hot.", "duration_ms": 97_311, "ended_by": "too_hot"},
         "POST /v1/chat/completions 400 97.3 s · 7fdc5f9412f3 · too_hot temperature: "
         "It is too hot."),
        (CHAT | {"status": 499, "ended_by": "client_disconnected", "completion_tokens": None},
         "POST /v1/chat/completions 499 5.08 s · 37 tokens · ttft 112 ms · 7fdc5f9412f3 · "
         "client_disconnected"),
        ({"event": "request finished", "job": "u1", "request_id": "u1", "path": "/v1/completions",
          "status": 200, "duration_ms": 127.2, "prompt_tokens": 3, "completion_tokens": 1},
         "job u1 /v1/completions 200 127 ms · 3+1 tokens"),
        (READY, "ready on http://localhost:8000/v1 · SmolLM2-135M-Instruct · 8192 tokens · 47 s"),
        (READY | {"url": "https://[::]:8443/v1", "context_length": None, "seconds": 2.04},
         "ready on https://localhost:8443/v1 · SmolLM2-135M-Instruct · 2.0 s"),
        (READY | {"url": "http://10.0.0.7:80/v1"},
         "ready on http://10.0.0.7:80/v1 · SmolLM2-135M-Instruct · 8192 tokens · 47 s"),
        (READY | {"url": None}, "ready for jobs · SmolLM2-135M-Instruct · 8192 tokens · 47 s"),
        ({"event": "the store is open", "database": "/var/r.db"},
         "the store is open  database=/var/r.db"),
        ({"event": "exiting", "level": "error", "reason": "the engine is gone", "code": 70},
         "error exiting: the engine is gone  code=70"),
        ({"event": "no GPU found", "level": "warning", "process": 2}, "[2] warning no GPU found"),
        ({"event": "Prefill batch", "logger": "sglang.srt.managers.scheduler"},
         "sglang: Prefill batch"),
    ],
)  # fmt: skip
def test_a_line_says_what_matters_in_its_order(line: dict[str, Any], text: str) -> None:
    assert console(line) == text


def test_times_are_local() -> None:
    moment = datetime(2026, 11, 27, 13, 3, 12, tzinfo=UTC)
    text = Form("console").text({"event": "x", "level": "info", "timestamp": moment.isoformat()})
    assert text == f"{moment.astimezone():%H:%M:%S} x\n"


@pytest.mark.parametrize("level", ["info", "warning"])
def test_a_long_line_of_a_library_is_cut(level: str) -> None:
    text = console({"event": "x" * 18_398, "logger": "sglang.srt", "level": level})
    assert text.endswith(f"sglang: {'x' * 400} ... (18398 characters)")


def test_an_error_of_a_library_and_a_line_of_ours_are_whole() -> None:
    for line in ({"logger": "sglang.srt", "level": "error"}, {}):
        assert "x" * 5000 in console({"event": "x" * 5000, **line})


def test_colors_add_nothing_that_is_seen() -> None:
    for line in (CHAT, REFUSED, READY, {"event": "x", "level": "warning", "a": "b c"}):
        colored = console(line, colors=True)
        assert "\x1b[" in colored
        assert re.sub(r"\x1b\[\d+m", "", colored) == console(line)


# -- the progress --------------------------------------------------------------------------------

DOWNLOAD = Progress("downloading the model", 12.4, 190_000_000, 400_000_000)


def shown(progress: Progress, columns: int = 99, *, unicode: bool = True) -> str:
    """As after ten seconds at the same rate."""
    line = ProgressLine(unicode=unicode)
    line.text(Progress(progress.activity, 2.4, 0, progress.total, progress.unit), 99, now=0.0)
    return line.text(progress, columns, now=5.0)


@pytest.mark.parametrize(
    ("progress", "columns", "text"),
    [
        (Progress("importing SGLang", 8.2), 99, "importing SGLang · 8 s"),
        (Progress("importing SGLang", 8.2), 12, "importing "),
        (DOWNLOAD, 99, "downloading the model  █████████░░░░░░░░░░░ 190 of 400 MB · 38.0 MB/s · "
         "6 s left · 12 s"),
        (DOWNLOAD, 80, "downloading the model  █████████░░░░░░░░░░░ 190 of 400 MB · 6 s left · "
         "12 s"),
        (DOWNLOAD, 70, "downloading the model  █████████░░░░░░░░░░░ 190 of 400 MB · 12 s"),
        (DOWNLOAD, 50, "downloading the model · 190 of 400 MB · 12 s"),
        (DOWNLOAD, 30, "downloading the model · 190 "),
        (Progress("reading the weights", 30, 1_200_000_000, 141_000_000_000), 90,
         "reading the weights  ░░░░░░░░░░░░░░░░░░░░ 1.2 of 141.0 GB · 10 min left · 30 s"),
        (Progress("loading the model", 31, 2, 4, "shards"), 99,
         "loading the model  ██████████░░░░░░░░░░ 2 of 4 shards · 5 s left · 31 s"),
    ],
)  # fmt: skip
def test_the_progress_fits_its_terminal(progress: Progress, columns: int, text: str) -> None:
    line = shown(progress, columns)
    assert line[2:] == text
    assert len(line) <= columns


def test_a_terminal_without_unicode_gets_none() -> None:
    assert shown(DOWNLOAD, unicode=False).isascii()


def test_a_download_that_has_not_moved_yet_has_no_rate() -> None:
    text = ProgressLine(unicode=True).text(DOWNLOAD, 99, now=0.0)
    assert text.endswith("190 of 400 MB · 12 s")
