"""The program's modes as a user runs them: help, settings, completion, the API's description."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.cli import main
from app.command.flags import MODES
from app.settings.catalogue import DECLARATIONS
from app.settings.declare import flag_of

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for declared in DECLARATIONS.values():
        for name in declared.accepted_names:
            monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def of(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(words)
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return of


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"], ["serve", "--help"]])
def test_the_help_is_one_screen(words: list[str], run: Any) -> None:
    code, out, _ = run(*words)
    lines = out.splitlines()
    assert code == 0
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    assert all(f"\n  {mode} " in out for mode in MODES)


def test_all_of_the_help_has_every_setting_that_has_a_flag(run: Any) -> None:
    _, out, _ = run("--help", "all")
    for declared in DECLARATIONS.values():
        if declared.has_flag:
            assert f"--{flag_of(declared.names[0])}" in out


@pytest.mark.parametrize(
    ("topic", "text"),
    [
        ("pictures", "--media-max-images N"), ("port", "flags: --port"), ("TP_SIZE", "auto"),
        ("tp", "TENSOR_PARALLEL_SIZE"), ("settings", "--json"), ("bench", "bench --help"),
        ("gcp-key", "GCP_KEY"),
    ],
)  # fmt: skip
def test_help_on_a_section_a_setting_or_a_mode(topic: str, text: str, run: Any) -> None:
    code, out, _ = run("help", topic)
    assert code == 0
    assert text in out


@pytest.mark.parametrize("words", [["--help", "engine"], ["-h", "engine"], ["a/b", "-h", "engine"]])
def test_help_on_the_words_after_its_flag(words: list[str], run: Any) -> None:
    assert run(*words) == run("help", "engine")


def test_help_on_nothing_that_there_is_names_the_nearest(run: Any) -> None:
    assert run("help", "prot") == (
        78, "", "serve_hathora: there is no help on 'prot'; did you mean port?\n",
    )  # fmt: skip


def test_the_settings_are_rows_below_a_head_or_json_or_only_those_that_are_set(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", "sk-1")
    _, rows, _ = run("settings", "a/b", "--port", "81")
    assert rows.splitlines()[0].split() == ["setting", "value", "from"]
    assert len(rows.splitlines()) == len(DECLARATIONS) + 1
    _, some, _ = run("settings", "--set", "a/b")
    assert [line.split()[0] for line in some.splitlines()] == ["setting", "MODEL_PATH", "API_KEY"]
    _, text, _ = run("--json", "--set", "settings", "--port", "81")
    assert json.loads(text) == {
        "PORT": {"value": "81", "from": "--port"},
        "API_KEY": {"value": "**********", "from": "API_KEY"},
    }


def test_where_nothing_is_set_that_is_said(run: Any) -> None:
    assert run("settings", "--set") == (0, "every setting has its default\n", "")


def test_settings_that_nobody_reads_to_the_end_are_no_error() -> None:
    program = f"{sys.executable} {ROOT}/serve_hathora.py settings"
    command = f"{program} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.stdout.split()[-1], done.stderr) == ("0", "")
    # A short output is still in the buffer when the mode has ended.
    command = f"(sleep 0.3; exec {sys.executable} {ROOT}/serve_hathora.py version) | true"
    command += "; echo ${PIPESTATUS[0]}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_a_broken_pipe_of_a_server_is_no_clean_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("app.cli._serve", broken)
    with pytest.raises(BrokenPipeError):
        main(["a/b"])


@pytest.mark.parametrize(
    "words",
    [
        ["a/b", "--port", "1", "--help"], ["--help", "prot"], ["-tp", "2", "-h"], ["m", "-h"],
        ["model", "--help"], ["engine", "--port", "1", "-h"], ["port", "-h"], ["all", "-h"],
        ["serve", "m", "-h"], ["--help", "a/b"],
    ],
)  # fmt: skip
def test_help_at_the_end_of_a_command_line_is_the_first_screen(words: list[str], run: Any) -> None:
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    assert out.startswith("usage: ")


def test_the_description_of_the_api_needs_no_server_and_starts_nothing(
    run: Any, tmp_path: Path
) -> None:
    code, out, _ = run("openapi", "--max-choices", "3", "--state-dir", str(tmp_path / "state"))
    document = json.loads(out)
    assert code == 0
    assert "/v1/chat/completions" in document["paths"]
    assert document["components"]["schemas"]["ChatBody"]["properties"]["n"]["anyOf"][0] == {
        "type": "integer", "minimum": 1, "maximum": 3,
    }  # fmt: skip
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--served", ["--served-model-name"]),
        ("ser", ["serve"]),
        ("--tensor", ["--tensor-parallel-size"]),
        ("--log-level ''", ["debug", "info", "warning", "error"]),
        ("check --p", ["--port"]),
        ("check --served", []),
        ("settings --set", ["--set", "--settings-file"]),
        ("bench --str", ["--streams"]),
        ("runpod --served", ["--served-model-name"]),
        ("completion ''", ["bash", "zsh"]),
        ("help al", ["all"]),
    ],
)
def test_bash_completes_flags_modes_and_the_words_that_a_setting_takes(
    line: str, words: list[str], run: Any, tmp_path: Path
) -> None:
    pytest.importorskip("shtab")
    _, script, _ = run("completion", "bash")
    (tmp_path / "completion.bash").write_text(script)
    typed = f"""
        source completion.bash
        set -- {line}
        COMP_WORDS=(serve-hathora "$@"); COMP_CWORD=$#
        _shtab_serve_hathora serve-hathora "${{@: -1}}" ""
        echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", typed], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() == words, done.stderr


def test_zsh_reads_its_completion(run: Any, tmp_path: Path) -> None:
    pytest.importorskip("shtab")
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    _, script, _ = run("--print-completion", "zsh")
    (tmp_path / "_serve-hathora").write_text(script)
    done = subprocess.run(
        ["zsh", "-n", "_serve-hathora"], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_completion_needs_to_know_the_shell(run: Any) -> None:
    code, _, line = run("completion", "fish")
    assert (code, line) == (78, "serve_hathora: completion needs a shell: bash or zsh\n")


def test_a_version_needs_no_valid_settings(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "x")
    assert run("version")[:2] == run("--version")[:2]


def test_a_python_without_the_packages_is_told_in_a_line_where_they_are(tmp_path: Path) -> None:
    # Python's own packages alone, as in a shell whose environment has not been activated.
    command = [sys.executable, "-S", str(ROOT / "serve_hathora.py"), "check"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 78
    assert done.stderr.startswith(f"serve_hathora: {sys.executable} has no ")
    assert done.stderr.count("\n") == 1
    assert ".venv/bin/python" in done.stderr


def test_without_sglang_the_start_says_what_to_install(tmp_path: Path) -> None:
    program = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'sglang' else find(name, *more)\n"
        "from app.cli import main; main(['some/model', '--log-file='])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 78
    assert "pip install '.[engine]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
