"""What SGLang says of itself at each start is debug; its errors never are."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from app.logs.noise import demote
from tests.logs.test_capture import lines, output


def record(
    text: object, level: int = logging.INFO, name: str = "sglang.srt.x"
) -> logging.LogRecord:
    return logging.LogRecord(name, level, "", 0, text, None, None)


@pytest.mark.parametrize(
    "noise",
    [
        record("server_args={'model_path': 'x'}", logging.WARNING),
        record("Ignore import error when loading sglang.srt.models.x: no", logging.WARNING),
        record("anything", name="sglang.srt.plugins.hook_registry"),
    ],
)
def test_lines_that_tell_an_operator_nothing_are_debug(noise: logging.LogRecord) -> None:
    assert demote(noise)
    assert (noise.levelno, noise.levelname) == (logging.DEBUG, "DEBUG")


@pytest.mark.parametrize(
    "other",
    [
        record("server_args={}", logging.ERROR),
        record("server_args={}", name="somebody.else"),
        record("Load weight begin."),
        record("a hook failed", logging.WARNING, "sglang.srt.plugins.hook_registry"),
        record({"server_args": 1}),
    ],
)
def test_other_lines_keep_their_level(other: logging.LogRecord) -> None:
    before = other.levelno
    assert not demote(other)
    assert other.levelno == before


PROGRAM = """
log.info("server_args=" + "x" * 9000)
log.warning("Fail to set RLIMIT_NOFILE: no")
log.info("Load weight begin.")
"""


def test_they_are_left_out_above_debug_and_there_at_debug(tmp_path: Path) -> None:
    assert [line["event"] for line in lines(tmp_path, PROGRAM)] == ["Load weight begin."]
    out = output(tmp_path, PROGRAM, LOG_LEVEL="debug")
    shown = [json.loads(line) for line in out.splitlines()]
    levels = [line["level"] for line in shown if line["logger"] == "sglang.srt"]
    assert levels == ["debug", "debug", "info"]
