"""A line on a terminal: what a client sends cannot move its cursor or forge a line."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.logs.form import NAME, Form

CONSOLE = Form("console", colors=False)


@given(st.text() | st.text(alphabet="\x00\x07\x1b\x7f\x80\x9b\u202e\u2028\n\r\t a"))
def test_a_field_has_no_control_characters(path: str) -> None:
    text = CONSOLE.text({"event": "request started", "level": "info", "path": path})
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    text.encode()


def test_a_field_that_is_printable_is_left_alone() -> None:
    text = CONSOLE.text({"event": "request started", "level": "info", "path": "/Łódź/🌦"})
    assert "path=/Łódź/🌦" in text


@pytest.mark.parametrize("style", ["console", "json"])
def test_a_librarys_record_keeps_its_lines_and_loses_its_escapes(style: str) -> None:
    record = logging.LogRecord(
        "sglang", logging.WARNING, "", 0, "two\n\tlines\x1b]0;owned\x07", None, None
    )
    text = Form(style, colors=False).text(record)  # type: ignore[arg-type]
    assert "\x1b" not in text
    assert "\x07" not in text
    assert ("two\n    \tlines" in text) == (style == "console")


@pytest.mark.parametrize("style", ["console", "text"])
@pytest.mark.parametrize("of_child", [False, True])
def test_a_librarys_text_does_not_forge_a_line(style: str, of_child: bool) -> None:
    said = "client sent\n2026-11-27 14:00:00,000 - serve_hathora - ERROR - forged\r\nmore"
    line: Any = logging.LogRecord("sglang", logging.WARNING, "", 0, said, None, None)
    if of_child:
        at = "2026-11-27T13:03:12Z"
        line = {"event": said, "level": "warning", "logger": "sglang", "timestamp": at}
    first, *rest = Form(style, colors=False).text(line).splitlines()  # type: ignore[arg-type]
    assert first.endswith("client sent")
    assert len(rest) == 2
    assert all(each.startswith("    ") for each in rest)


FORGED = "13:00:00 ready on http://evil"


def _raised() -> Any:
    try:
        raise ValueError(f"client said\n{FORGED}")
    except ValueError as error:
        return type(error), error, error.__traceback__


@pytest.mark.parametrize("style", ["console", "text"])
@pytest.mark.parametrize("exc_info", [_raised(), (*_raised()[:2], None)])
def test_an_exceptions_text_does_not_forge_a_line(style: str, exc_info: Any) -> None:
    record = logging.LogRecord("sglang", logging.ERROR, "", 0, "failed", None, exc_info)
    first, *rest = Form(style, colors=False).text(record).splitlines()  # type: ignore[arg-type]
    assert first.endswith("failed")
    assert rest[-1] == f"    {FORGED}"
    assert all(each.startswith("    ") for each in rest)


@pytest.mark.parametrize("style", ["console", "text"])
@pytest.mark.parametrize("field", ["exception", "stack"])
@pytest.mark.parametrize("logger", [NAME, "sglang"])
@pytest.mark.parametrize("said", [FORGED, f"ValueError: client said\n{FORGED}"])
def test_no_line_below_another_begins_at_its_margin(
    style: str, field: str, logger: str, said: str
) -> None:
    at = "2026-11-27T13:03:12Z"
    line = {"event": "failed", "level": "error", "logger": logger, "timestamp": at, field: said}
    first, *rest = Form(style, colors=False).text(line).splitlines()  # type: ignore[arg-type]
    assert first.endswith("failed")
    assert rest == [f"    {each}" for each in said.splitlines()]


def test_an_exceptions_text_loses_its_escapes() -> None:
    line = {"event": "failed", "level": "error", "exception": "Traceback\n  ValueError: \x1b[2J"}
    text = CONSOLE.text(line)
    assert "    Traceback\n      ValueError: \\x1b[2J" in text
