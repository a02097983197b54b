"""What becomes of every variable of the five documents, of today's workers, and of RunPod.

tests/documents/today/outcomes.json is the table: one row for each variable, with a value that its
users set. Each row is tried: the settings are loaded with that variable alone; what has changed,
what is logged, and the line at which the start stops must be the row's.

    honoured    the settings in `effect` differ from the defaults, and nothing is logged
    translated  they differ, and the log says what the value was taken as (`line`)
    no effect   nothing differs, and the log says why
    refused     the start stops with this line
    image       the images read it, in `file`
    elsewhere   `why` says who reads it
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from app.errors import ConfigError
from app.settings import vllm
from app.settings.load import Loaded, load
from app.settings.translations import GONE
from tests.settings.test_migrate import (
    ALONE,
    IMAGE,
    NAMES,
    ROOT,
    VARIABLES,
    in_force,
    started,
)

TODAY = ROOT / "tests/documents/today"
OUTCOMES: list[dict[str, Any]] = json.loads((TODAY / "outcomes.json").read_text())
WORKER_VLLM: dict[str, Any] = json.loads((TODAY / "worker-vllm.json").read_text())
FORM: dict[str, list[Any]] = WORKER_VLLM["form"]
YAML = "max-num-seqs: 64\nenable-prefix-caching: true\n"
TRIED = [row for row in OUTCOMES if "value" in row]
ROWS = pytest.mark.parametrize("row", [pytest.param(row, id=row["name"]) for row in TRIED])


def loaded_with(row: dict[str, Any], folder: Path) -> Loaded:
    value = row["value"]
    if value == "@file":
        value = str(folder / "vllm.yaml")
        Path(value).write_text(YAML)
    return load({}, {row["name"]: value, **ALONE})


def plain(value: Any) -> Any:
    match value:
        case SecretStr():
            return "***"
        case tuple():
            return [plain(each) for each in value]
        case _:
            return value


@ROWS
def test_a_variable_has_the_outcome_of_its_row(row: dict[str, Any], tmp_path: Path) -> None:
    if row["outcome"] == "refused":
        with pytest.raises(ConfigError) as refused:
            loaded_with(row, tmp_path)
        assert str(refused.value) == row["line"]
        assert row["name"] in row["line"]
        return
    loaded = loaded_with(row, tmp_path)
    before = in_force(load({}, ALONE))
    effect = {n: plain(v) for n, v in in_force(loaded).items() if v != before[n]}
    assert effect == row.get("effect", {})
    lines = [line.replace(str(tmp_path / "vllm.yaml"), "@file") for line in loaded.warnings]
    assert lines[:1] == ([row["line"]] if "line" in row else [])
    assert ("effect" in row, "line" in row) == {
        "honoured": (True, False),
        "translated": (True, True),
        "no effect": (False, True),
    }[row["outcome"]]
    if row["outcome"] == "no effect":
        assert row["name"] in row["line"]


def test_every_variable_has_a_row() -> None:
    names = [row["name"] for row in OUTCOMES]
    assert len(names) == len(set(names))
    documented = {each["name"] for variables in VARIABLES.values() for each in variables}
    for part in ("flags", "removed_flags", "of_the_worker", "withdrawn", "form"):
        documented |= set(WORKER_VLLM[part])
    for file in ("worker-sglang", "runpod", "more"):
        documented |= set(json.loads((TODAY / f"{file}.json").read_text())["variables"])
    assert set(names) == documented


def test_a_variable_that_is_not_a_settings_is_named_where_it_is_read() -> None:
    for row in OUTCOMES:
        if row["outcome"] == "image":
            assert row["file"] == IMAGE[row["name"]]
        elif row["outcome"] == "elsewhere":
            assert re.search(rf"`{row['name']}`", (ROOT / "docs/runpod.md").read_text())
        else:
            known = (row["name"] in place for place in (NAMES, GONE, vllm.REFUSED))
            assert sum(known) == 1 or row["name"].startswith("VLLM_")


@pytest.mark.parametrize("flag", WORKER_VLLM["vllm_serve"] + WORKER_VLLM["vllm_serve_switches"])
def test_a_flag_of_vllm_is_taken_over_or_named(flag: str) -> None:
    """Through VLLM_EXTRA_ARGS, with the value that its variable has in the table."""
    name = flag.upper().replace("-", "_")
    value = next((row["value"] for row in TRIED if row["name"] == name), "7")
    command = f"--{flag} {shlex.quote(value)}"
    if flag in WORKER_VLLM["vllm_serve_switches"]:
        command = f"--no-{flag}" if value == "false" else f"--{flag}"
    match started({"VLLM_EXTRA_ARGS": command}):
        case str(line):
            assert f"--{flag}" in line or name in line or flag.startswith("spec-")
        case loaded if in_force(loaded) == in_force(load({}, {})):
            assert any(f"--{flag}" in warning for warning in loaded.warnings)


def test_the_form_of_todays_worker_vllm_loads_as_it_is_sent() -> None:
    """The console sends every field, with its default where the user has left it."""
    environ = {name: str(values[0]) if values else "" for name, values in FORM.items()}
    loaded = load({}, environ | {"MODEL_NAME": "Qwen/Qwen3-8B"})
    settings = loaded.settings
    assert (settings.model_path, settings.max_concurrency) == ("Qwen/Qwen3-8B", 30)
    assert (settings.context_length, settings.device, settings.quantization) == (None, None, None)
    assert settings.speculative_algorithm is None
    assert settings.max_running_requests == 256


@pytest.mark.parametrize(
    ("name", "value"), [(name, str(value)) for name, values in FORM.items() for value in values]
)
def test_a_choice_of_todays_form_is_accepted_or_refused_by_name(name: str, value: str) -> None:
    match started({name: value}):
        case str(line):
            assert name in line


SGLANG = """
import json, sys
from app.engine.sglang import parser_names
from app.engine.sglang.options import check_known
from app.errors import ConfigError
from app.settings.load import load
from sglang.srt.server_args import ServerArgs
refused = []
for name, value in json.load(sys.stdin):
    options = load({}, {name: value, "HATHORA_NETWORKING": "false"}).settings.engine_options()
    try:
        for kind in ("tool_call_parser", "reasoning_parser"):
            options[kind] = getattr(parser_names, kind)(options[kind])
        check_known(options, ServerArgs)
    except ConfigError as error:
        refused.append(f"{name}={value}: {error}")
sys.exit("\\n".join(refused) or 0)
"""


@pytest.mark.full
def test_sglang_has_the_options_and_values_that_the_table_leads_to() -> None:
    pairs = [
        (row["name"], row["value"])
        for row in TRIED
        if row["outcome"] in ("honoured", "translated") and row["value"] != "@file"
    ]
    # In a process of its own: importing SGLang changes much in it.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SGLANG],
        input=json.dumps(pairs), capture_output=True, text=True, cwd=ROOT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
