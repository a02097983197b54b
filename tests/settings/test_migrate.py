"""Every variable that five other servers document is handled here, as docs/migrate.md documents.

tests/documents/ has their variables, defaults and options, one file for each document.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.errors import ConfigError
from app.settings.catalogue import DECLARATIONS, OTHERS
from app.settings.load import Loaded, load
from app.settings.translations import GONE
from app.settings.vllm import REFUSED

ROOT = Path(__file__).parents[2]
VARIABLES: dict[str, list[dict[str, Any]]] = {
    path.stem: json.loads(path.read_text())
    for path in sorted(ROOT.glob("tests/documents/*.json"))
}  # fmt: skip
SECTIONS = {
    "runpod-proxy": "RunPod proxy worker",
    "worker-sglang": "worker-sglang",
    "hathora": "Hathora server",
    "gpt-oss-pod": "gpt-oss pod",
    "worker-vllm": "worker-vllm",
}
IMAGE = {
    "BASE_PATH": "Dockerfile.hathora",
    "WORKER_CUDA_VERSION": "Dockerfile.hathora",
    "PUBLIC_KEY": "deploy/docker/start-pod.sh",
    "SSH_PASSWORD": "deploy/docker/start-pod.sh",
    "SSH_PUBLIC_KEY": "deploy/docker/start-pod.sh",
}
"""What the images handle, before the program starts."""

ALONE = {"HATHORA_NETWORKING": "false"}
"""With this the variables of Hathora's networking, which come in fours, can be tried one by one."""
TRIED = ("true", "false", "3", "9", "0.5", '{"a": 1}', "word", "warning", "--tp 2")


NAMES = {name for declared in DECLARATIONS.values() for name in declared.names}
TRANSLATED = {field for field, declared in DECLARATIONS.items() if declared.section == OTHERS.title}
EACH = pytest.mark.parametrize(
    "variable",
    [
        pytest.param(variable, id=f"{system}-{variable['name']}")
        for system, variables in VARIABLES.items()
        for variable in variables
    ],
)
SYSTEMS = pytest.mark.parametrize("system", SECTIONS)


def documented(variable: dict[str, Any]) -> list[str]:
    return [v for v in (variable["default"], *variable.get("options", ())) if v is not None]


def started(environ: dict[str, str]) -> Loaded | str:
    """The settings, or the line with which the start stops."""
    try:
        return load({}, environ)
    except ConfigError as error:
        return str(error)


def in_force(loaded: Loaded) -> dict[str, Any]:
    """What the program goes by: not the settings that only become others."""
    return {n: v for n, v in dict(loaded.settings).items() if n not in TRANSLATED}


@EACH
def test_a_variable_is_a_setting_or_gone_or_the_images(variable: dict[str, Any]) -> None:
    assert sum(variable["name"] in place for place in (NAMES, GONE, IMAGE)) == 1


@pytest.mark.parametrize(("name", "file"), IMAGE.items())
def test_what_the_images_handle_is_named_where_it_is_handled(name: str, file: str) -> None:
    assert re.search(rf"\b{name}\b", (ROOT / file).read_text())


@EACH
def test_a_default_or_nothing_is_accepted(variable: dict[str, Any]) -> None:
    for value in ("", variable["default"] or ""):
        assert isinstance(started({variable["name"]: value}), Loaded)


@EACH
def test_an_option_is_accepted_or_refused_by_name(variable: dict[str, Any]) -> None:
    for value in documented(variable):
        match started({variable["name"]: value}):
            case str(line):
                assert variable["name"] in line
                assert "\n" not in line


@EACH
def test_a_variable_has_an_effect_or_a_warning_says_that_it_has_none(
    variable: dict[str, Any],
) -> None:
    name = variable["name"]
    if name in IMAGE:
        return
    seen = set()
    for value in (*documented(variable), *TRIED):
        match started({name: value, **ALONE}):
            case str(line):
                assert name in line
                seen.add("refused" if "cannot be honoured" in line else "wrong")
            case loaded if any(name in warning for warning in loaded.warnings):
                seen.add("warned")
            case loaded if in_force(loaded) != in_force(load({}, ALONE)):
                seen.add("changed")
    assert seen & {"refused", "warned", "changed"}


def test_a_documented_command_line_of_two_lines_is_taken_over() -> None:
    command = (
        "python3 -m sglang.launch_server --host 0.0.0.0 --port 30000 \\\n"
        "  --model /models --trust-remote-code --tp 1 --max-model-len 32768"
    )
    settings = load({}, {"SGLANG_SERVER_CMD": command}).settings
    assert (settings.model_path, settings.tp_size, settings.context_length) == ("/models", 1, 32768)
    assert settings.trust_remote_code
    assert settings.port == 8000


SGLANG = """
import json, sys
from app.engine.sglang import parser_names
from app.engine.sglang.options import check_known
from app.errors import ConfigError
from app.settings.load import load
from sglang.srt.server_args import ServerArgs
refused = []
for name, value in json.load(sys.stdin):
    try:
        options = load({}, {name: value, "HATHORA_NETWORKING": "false"}).settings.engine_options()
    except ConfigError:
        continue
    try:
        for kind in ("tool_call_parser", "reasoning_parser"):
            options[kind] = getattr(parser_names, kind)(options[kind])
        check_known(options, ServerArgs)
    except ConfigError as error:
        refused.append(str(error))
sys.exit("\\n".join(refused) or 0)
"""


@pytest.mark.full
def test_sglang_takes_what_the_settings_take() -> None:
    documented_values = [
        (variable["name"], value)
        for variables in VARIABLES.values()
        for variable in variables
        for value in documented(variable)
    ]
    # In a process of its own: importing SGLang changes much in it.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SGLANG],
        input=json.dumps(documented_values), capture_output=True, text=True, cwd=ROOT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


# -- docs/migrate.md ---------------------------------------------------------------------------


def rows(section: str, *, first_table: bool = False) -> list[list[str]]:
    """The cells of a section's tables, without their heads."""
    text = (ROOT / "docs/migrate.md").read_text()
    body = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    tables = re.findall(r"(?:^\|.*\n)+", body, re.MULTILINE)
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for table in (tables[:1] if first_table else tables)
        for line in table.splitlines()[2:]
    ]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@SYSTEMS
def test_a_document_and_its_table_have_the_same_variables(system: str) -> None:
    there = [name for row in rows(SECTIONS[system], first_table=True) for name in code(row[0])]
    assert sorted(there) == sorted(variable["name"] for variable in VARIABLES[system])


@SYSTEMS
def test_a_name_is_handled_as_the_tables_document(system: str) -> None:
    for there, here, differs in rows(SECTIONS[system]):
        for name in code(there):
            if here == "same":
                assert name in NAMES
            elif here == "no effect":
                assert GONE[name] == differs
            elif here == "refused":
                assert REFUSED[name] == differs
            else:
                (target,) = code(here)
                assert IMAGE[name] == target if name in IMAGE else target in NAMES


@pytest.mark.parametrize(
    ("variables", "outcome", "line"),
    [pytest.param(*row, id=code(row[0])[0]) for row in rows("What the start says")],
)
def test_the_start_logs_the_lines_that_the_document_quotes(
    variables: str, outcome: str, line: str
) -> None:
    environ = dict(pair.split("=") for pair in code(variables)[0].split())
    if outcome == "stops":
        with pytest.raises(ConfigError) as error:
            load({}, environ)
        assert [str(error.value)] == code(line)
        return
    assert list(load({}, environ).warnings) == code(line)
    moved = in_force(load({}, environ)) != in_force(load({}, {}))
    assert moved == (outcome == "translated" or len(environ) > 1)


# -- the documents themselves, where they are at hand ------------------------------------------

REFERENCE = ROOT.parent / "shared" / "reference"
SOURCES = {
    "runpod-proxy": "0-runpod-openai-proxy.md",
    "worker-sglang": "1-worker-sglang.md",
    "hathora": "2-sglang-hathora-server.md",
    "gpt-oss-pod": "3-gpt-oss-runpod-pod.md",
    "worker-vllm": "4-worker-vllm.md",
}
CLIENTS = {"DOCKER_BUILDKIT", "ENDPOINT_ID", "OPENAI_API_KEY", "RUNPOD_API_KEY"}
"""What a document tells its reader to set elsewhere."""


@SYSTEMS
def test_a_document_names_no_other_variables(system: str) -> None:
    document = next(REFERENCE.glob(f"*/{SOURCES[system]}"), None)
    if document is None:
        pytest.skip("the other servers' documents, which are not part of this repository")
    text = document.read_text()
    named = set(re.findall(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b", text))
    named |= set(re.findall(r"^(?:\| *`|export |  - `)?([A-Z]+)(?=` *\||=|`$)", text, re.MULTILINE))
    if system == "worker-vllm":  # its README leaves most of them to another page
        whole = (REFERENCE / "deploy.md").read_text().partition("\n# 7. ")[2]
        named |= set(re.findall(r"(?:: | · )([A-Z][A-Z0-9_]+)(?= = | · |$)", whole, re.MULTILINE))
    assert named - CLIENTS == {variable["name"] for variable in VARIABLES[system]}
