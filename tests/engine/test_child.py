"""The logging config that SGLang applies in each of its processes, and in the serving process."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

from app.engine.child import logging_config
from app.settings.load import load

SERVING_PROCESS = """
import json, logging.config, sys
from app.logs import setup
from app.settings.load import load
setup.configure(load({}, {"LOG_FILE": "", "LOG_FORMAT": "json"}).settings, process=3)
logging.config.dictConfig(json.loads(sys.argv[1]))
logging.getLogger("sglang.srt").error("out of memory")
setup.flush()
"""


def test_in_the_serving_process_the_config_keeps_its_own_log(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SERVING_PROCESS, json.dumps(logging_config(load({}, {}).settings))],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        check=True,
    )
    line = json.loads(ran.stdout)
    assert (line["event"], line["process"]) == ("out of memory", 3)


def test_the_level_is_that_of_the_server() -> None:
    config = logging_config(load({}, {"LOG_LEVEL": "warning"}).settings)
    assert config["root"]["level"] == logging.getLevelName(logging.WARNING)
