"""A server's process whose children log as SGLang's do, for tests that look at what comes out.

    python -m tests.logs.family CHILD [...]

CHILD: the program of an engine process, which logging has been set up in. The server's process
waits for all, prints what a failed start would say to the file `explained`, and ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_SGLANG = """
import json, logging, logging.config, os, sys
logging.config.dictConfig(json.load(open(os.environ["SGLANG_LOGGING_CONFIG_PATH"])))
log = logging.getLogger("sglang.srt")
"""


def main(programs: list[str]) -> None:
    from app.command import roles
    from app.settings.load import load

    _, runtime = roles._prepared(load({}), several=False)
    children = [subprocess.Popen([sys.executable, "-c", _SGLANG + each]) for each in programs]
    codes = [child.wait() for child in children]
    Path("ended").write_text(" ".join(map(str, codes)))
    Path("explained").write_text(str(runtime.last_error()))
    roles._to_the_end(lambda: 0, runtime.remove)


def command(*programs: str) -> list[str]:
    return [sys.executable, "-m", __spec__.name, *programs]


if __name__ == "__main__":
    sys.path.insert(0, os.environ["PYTHONPATH"])
    main(sys.argv[1:])
