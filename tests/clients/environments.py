"""The environments that the clients are installed in, and how a program is run in one of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FOLDER = Path(os.environ.get("CLIENTS_DIR", ROOT / ".clients")).absolute()
NODE = FOLDER / "node/node_modules"
FULL = ROOT / ".venv/bin/python"
PROGRAM_S = 120.0
"""A program that runs so long hangs: the slowest imports for a quarter of a minute."""

# What would make a client ask another server than ours while it starts, or at all.
_QUIET = {
    "CONTINUE_TELEMETRY_ENABLED": "0",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
}


def python(name: str) -> Path:
    """The interpreter of one of the Python environments; the test fails if there is none."""
    path = FOLDER / name / "bin/python"
    assert path.exists(), f"{path} is missing: `make test-clients` installs it"
    return path


def node() -> Path:
    """Node as the package `node` brings it; the test is skipped on a machine without npm."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: clients for Node are left out")
    path = NODE / ".bin/node"
    assert path.exists(), f"{path} is missing: `make test-clients` installs it"
    return path


def command(program: str) -> list[str]:
    """How one of `programs/` is started: `sdks/openai_python.py`, `node/openai_node.mjs`."""
    environment, _, name = program.partition("/")
    source = HERE / "programs" / name
    if environment != "node":
        return [str(python(environment)), str(source)]
    # Node looks for packages beside the program, wherever it is started.
    interpreter = node()
    return [str(interpreter), shutil.copy(source, FOLDER / "node" / name)]


def environment(home: Path, **more: str) -> dict[str, str]:
    """Nothing of the user's: no keys, no settings, a home of its own."""
    path = f"{NODE / '.bin'}:{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(home), "LANG": "C.UTF-8", **_QUIET, **more}


def run(
    arguments: list[str],
    home: Path,
    prompt: str = "",
    *,
    within_s: float = PROGRAM_S,
    **more: str,
) -> str:
    """What it prints. `prompt`: its standard input."""
    done = subprocess.run(
        arguments,
        cwd=home,
        env=environment(home, **more),
        capture_output=True,
        text=True,
        timeout=within_s,
        input=prompt,
    )
    assert done.returncode == 0, f"{arguments}: {done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    return done.stdout


def printed(
    program: str, home: Path, *, within_s: float = PROGRAM_S, **more: str
) -> dict[str, Any]:
    """The JSON object on the last line that a program prints."""
    lines = run(command(program), home, within_s=within_s, **more)
    last: dict[str, Any] = json.loads(lines.rstrip().rpartition("\n")[2])
    return last


def pins(environment: str) -> dict[str, str]:
    """The version of every package that is installed there, by name."""
    if environment == "node":
        package = json.loads((HERE / "node/package.json").read_text())
        return package["dependencies"] | package["devDependencies"]
    file = HERE / f"requirements-{environment}.txt"
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", file.read_text(), re.MULTILINE))
