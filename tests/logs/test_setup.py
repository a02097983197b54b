"""The log: one form for all, ids on every line, no content above debug."""

from __future__ import annotations

import json
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
configured = load({}, {"LOG_FILE": sys.argv[1], "LOG_FORMAT": sys.argv[2]}).settings
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


def _run(tmp_path: Path, style: str) -> tuple[str, str]:
    file = tmp_path / "serve.log"
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(file), style],
        capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True,
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


def test_the_console_shows_no_local_variables_and_nothing_below_its_level(tmp_path: Path) -> None:
    out, file = _run(tmp_path, "console")
    assert "RuntimeError: broken" in out
    for text in (out, file):
        assert "sk-hidden" not in text
        assert "secret prompt" not in text
    assert "\x1b[" not in file


def test_a_log_file_is_made_for_the_servers_user_alone(tmp_path: Path) -> None:
    file = tmp_path / "serve.log"
    assert logs.file_is_writable(load({}, {"LOG_FILE": str(file)}).settings)
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_log_file_that_cannot_be_written_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"LOG_FILE: cannot write /proc/nowhere/x\.log"):
        logs.file_is_writable(load({}, {"LOG_FILE": "/proc/nowhere/x.log"}).settings)
