"""LOG_FORMAT=text: the lines of the Hathora document, "Log Format"."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.logs.form import Form
from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve

ASKED = {"client": "127.0.0.1", "method": "POST", "path": "/v1/chat/completions"}
ID = "chatcmpl-1757445150061234"
DOCUMENT = [
    ({"event": "request started", **ASKED},
     "[127.0.0.1] POST /v1/chat/completions - Request started"),
    ({"event": "generation requested", "path": "/v1/chat/completions", "id": ID, "model": "sglang",
      "messages": 1, "max_tokens": 50, "stream": False},
     "Chat completion request: model=sglang, messages=1, max_tokens=50, stream=False"),
    ({"event": "generation started", "id": ID, "prompt_tokens": 145},
     f"[{ID}] Starting generation for prompt length: 145"),
    ({"event": "generation completed", "id": ID, "duration_ms": 124.5},
     f"[{ID}] Generation completed in 124.5ms"),
    ({"event": "request finished", **ASKED, "status": 200, "duration_ms": 127.2, "id": ID},
     "[127.0.0.1] POST /v1/chat/completions - Status: 200, Duration: 127.2ms"),
]  # fmt: skip


def text(line: dict[str, Any]) -> str:
    ours = {"logger": "serve_hathora", "level": "info", "timestamp": "2025-09-09T19:12:30.059Z"}
    rendered = Form("text").text(ours | line)
    time, message = rendered.removesuffix("\n").split(" - ", 1)
    assert re.fullmatch(r"2025-09-\d\d \d\d:\d\d:30,059", time)
    return message


@pytest.mark.parametrize(("line", "message"), DOCUMENT)
def test_the_documents_lines_are_these(line: dict[str, Any], message: str) -> None:
    assert text(line) == f"serve_hathora - INFO - {message}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"event": "request finished", **ASKED, "status": 404, "duration_ms": 1.0,
          "ended_by": "model_not_found", "error": "There is no such model."},
         "serve_hathora - INFO - [127.0.0.1] POST /v1/chat/completions - Status: 404, "
         "Duration: 1.0ms, Error: model_not_found: There is no such model."),
        ({"event": "request finished", "job": "u1", "path": "/v1/completions", "status": 200,
          "duration_ms": 1.0},
         "serve_hathora - INFO - [job u1] /v1/completions - Status: 200, Duration: 1.0ms"),
        ({"event": "exiting", "level": "error", "reason": "gone", "code": 70},
         "serve_hathora - ERROR - exiting: reason=gone, code=70"),
        ({"event": "failed", "level": "error", "exception": "Traceback\n  x\nValueError: 7"},
         "serve_hathora - ERROR - failed\n    Traceback\n      x\n    ValueError: 7"),
        ({"event": "request started", **ASKED, "path": "/a\n2025 - forged"},
         "serve_hathora - INFO - [127.0.0.1] POST /a\\n2025 - forged - Request started"),
        ({"event": "ready", "url": "http://0.0.0.0:8000/v1", "model": "m", "context_length": None,
          "seconds": 3.0}, "serve_hathora - INFO - ready on http://0.0.0.0:8000/v1 · m · 3.0 s"),
    ],
)  # fmt: skip
def test_other_lines_have_the_same_form(line: dict[str, Any], message: str) -> None:
    assert text(line) == message


def test_a_librarys_line_has_its_own_logger() -> None:
    record = logging.LogRecord("sglang.srt", logging.WARNING, "", 0, "%d left", (3,), None)
    assert Form("text").text(record).endswith(" - sglang.srt - WARNING - 3 left\n")


async def test_a_request_has_all_lines_of_the_document_in_their_order() -> None:
    with capture_logs() as lines:
        async with serve(ScriptedEngine("Hello", " world"), LOG_FORMAT="text") as running:
            id = (await running.chat("hi", model="default", max_tokens=50)).json()["id"]
    of_request = [line for line in lines if line["event"].startswith(("request", "generation"))]
    messages = [
        re.sub(r"[\d.]+ms$", "Nms", text(_as_logged(line)).split(" - ", 2)[2])
        for line in of_request
    ]
    assert messages == [
        "[127.0.0.1] POST /v1/chat/completions - Request started",
        "Chat completion request: model=default, messages=1, max_tokens=50, stream=False",
        f"[{id}] Starting generation for prompt length: 2",
        f"[{id}] Generation completed in Nms",
        "[127.0.0.1] POST /v1/chat/completions - Status: 200, Duration: Nms",
    ]


def _as_logged(line: Any) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name != "log_level"}


async def test_a_generation_that_fails_does_not_complete() -> None:
    with capture_logs() as lines:
        async with serve(ScriptedEngine("Hello"), LOG_FORMAT="text") as running:
            answer = await running.chat("x" * 40_000)
    assert answer.status_code == 400
    events = [line["event"] for line in lines]
    assert "generation requested" in events
    assert "generation completed" not in events


@pytest.mark.parametrize("log_format", ["json", "console"])
async def test_other_formats_have_two_lines_for_a_request(log_format: str) -> None:
    with capture_logs() as lines:
        async with serve(ScriptedEngine("Hello"), LOG_FORMAT=log_format) as running:
            await running.chat()
    events = [line["event"] for line in lines]
    assert not [event for event in events if event.startswith("generation")]
    assert events.count("request started") == events.count("request finished") == 1
