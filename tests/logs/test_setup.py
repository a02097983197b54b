"""The log: one form for all, ids on every line, no content above debug."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.errors import ConfigError
from app.logs import setup as logs
from app.settings.load import load

PROGRAM = """
import logging, sys
from app.logs import setup as logs
from app.settings.load import load
from app.logs.setup import log, request_id
configured = load(
    {}, {"LOG_FILE": sys.argv[1], "LOG_FORMAT": sys.argv[2], "LOG_LEVEL": sys.argv[3]}
).settings
logs.configure(configured)
request_id.set("the-id")
log.info("ours", answer=42)
logging.getLogger("sglang.srt").warning("theirs %d", 7)
logging.getLogger("uvicorn.error").info("http")
log.debug("secret prompt")
try:
    secret_local = "sk-hidden"
    raise RuntimeError("broken")
except RuntimeError:
    log.exception("failed")
logs.flush()
"""


def _run(
    tmp_path: Path, style: str, *, program: str = PROGRAM, level: str = "info", **more: str
) -> tuple[str, str]:
    file = tmp_path / "serve.log"
    plain = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    ran = subprocess.run(
        [sys.executable, "-c", program, str(file), style, level],
        capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True,
        env=plain | more,
    )  # fmt: skip
    return ran.stdout, file.read_text()


def test_json_lines_are_the_same_for_ours_sglangs_and_uvicorns(tmp_path: Path) -> None:
    out, file = _run(tmp_path, "json")
    assert out == file
    ours, theirs, http, failed = [json.loads(line) for line in out.splitlines()]
    for line in (ours, theirs, http, failed):
        assert {"event", "level", "logger", "timestamp"} <= set(line)
        assert line["request_id"] == "the-id"
    assert ours["answer"] == 42
    assert theirs["event"] == "theirs 7"
    assert "RuntimeError: broken" in failed["exception"]


@pytest.mark.parametrize("style", ["console", "text"])
def test_lines_for_people_show_no_local_variables_and_nothing_below_their_level(
    tmp_path: Path, style: str
) -> None:
    out, file = _run(tmp_path, style)
    assert "RuntimeError: broken" in out
    for text in (out, file):
        assert "sk-hidden" not in text
        assert "secret prompt" not in text
        assert "\x1b[" not in text


@pytest.mark.parametrize("style", ["console", "text"])
def test_the_file_is_json_whatever_stdout_is(tmp_path: Path, style: str) -> None:
    _, as_json = _run(tmp_path, "json")
    (tmp_path / "serve.log").unlink()
    _, file = _run(tmp_path, style)
    for line, other in zip(file.splitlines(), as_json.splitlines(), strict=True):
        mine, theirs = json.loads(line), json.loads(other)
        assert list(mine) == list(theirs)
        assert mine["event"] == theirs["event"]


@pytest.mark.parametrize(
    ("environment", "colored"),
    [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)],
)
def test_colors_in_a_pipe_are_forced_and_forbidden(
    tmp_path: Path, environment: dict[str, str], colored: bool
) -> None:
    out, _ = _run(tmp_path, "console", **environment)
    assert ("\x1b[" in out) == colored


def test_what_is_announced_is_said_at_every_level(tmp_path: Path) -> None:
    program = PROGRAM.replace('log.info("ours"', 'logs.announce("ours"')
    out, _ = _run(tmp_path, "json", program=program, level="error")
    ours, failed = [json.loads(line) for line in out.splitlines()]
    assert (ours["event"], ours["level"], ours["request_id"]) == ("ours", "info", "the-id")
    assert failed["event"] == "failed"


def test_a_log_file_is_made_for_the_servers_user_alone(tmp_path: Path) -> None:
    file = tmp_path / "serve.log"
    assert logs.file_is_writable(load({}, {"LOG_FILE": str(file)}).settings)
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_log_file_that_cannot_be_written_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"LOG_FILE: cannot write /proc/nowhere/x\.log"):
        logs.file_is_writable(load({}, {"LOG_FILE": "/proc/nowhere/x.log"}).settings)
