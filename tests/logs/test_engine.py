"""The engine's processes log by a dictConfig: to stdout, the file, and errors to the note."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

from app.logs.engine import engine_config
from app.settings.load import load

ENGINE_PROCESS = """
import json, logging.config, sys
logging.config.dictConfig(json.loads(sys.argv[1]))
logging.getLogger("sglang.srt").info("loading %s", "weights")
logging.getLogger("sglang.srt").error("out of memory")
"""
SERVING_PROCESS = """
import json, logging.config, sys
from app.logs import setup
from app.settings.load import load
setup.configure(load({}, {"LOG_FILE": "", "LOG_FORMAT": "json"}).settings, process=3)
logging.config.dictConfig(json.loads(sys.argv[1]))
logging.getLogger("sglang.srt").error("out of memory")
setup.flush()
"""


def _run(program: str, folder: Path) -> list[dict[str, object]]:
    settings = load({}, {"LOG_FILE": f"{folder}/serve.log", "LOG_FORMAT": "json"}).settings
    config = json.dumps(engine_config(settings, folder / "note"))
    ran = subprocess.run(
        [sys.executable, "-c", program, config],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=True,
    )
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_an_engine_process_logs_in_our_form_and_notes_its_errors(tmp_path: Path) -> None:
    lines = _run(ENGINE_PROCESS, tmp_path)
    assert [line["event"] for line in lines] == ["loading weights", "out of memory"]
    file = (tmp_path / "serve.log").read_text()
    assert lines == [json.loads(line) for line in file.splitlines()]
    assert (tmp_path / "note").read_text() == "out of memory\n"


def test_in_the_serving_process_the_same_config_keeps_its_own_log(tmp_path: Path) -> None:
    (line,) = _run(SERVING_PROCESS, tmp_path)
    assert (line["event"], line["process"]) == ("out of memory", 3)
    assert not (tmp_path / "note").exists()


def test_without_a_log_file_the_engine_has_none(tmp_path: Path) -> None:
    settings = load({}, {"LOG_FILE": "", "LOG_LEVEL": "warning"}).settings
    config = engine_config(settings, tmp_path / "note")
    assert config["handlers"]["ours"]["file"] == ""
    assert config["root"]["level"] == logging.getLevelName(logging.WARNING)
