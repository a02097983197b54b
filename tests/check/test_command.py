"""The command: no server, wrong usage, what comes from the settings."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest
from starlette.responses import JSONResponse

from app.check import command, target
from app.cli import main
from app.command.flags import WITH_VERDICT
from app.errors import ConfigError
from tests.check.servers import listening, run
from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve

ROOT = Path(__file__).parents[2]


async def test_an_unreachable_server_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert await run(f"127.0.0.1:{port}/v1") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"no server answers at http://127.0.0.1:{port}: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--base-url", "ftp://here"], ["--base-url", "http://user:secret@here"],
        ["--base-url", "http://here:99999"], ["--timeout", "0"], ["--timeout", "nan"],
        ["--api-key", "sec\nret"], ["--no-such-flag"], ["--port", "0"], ["--port", "http"],
    ],
)  # fmt: skip
def test_wrong_usage_is_one_line_without_secrets(arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"^check: ") as refused:
        command.main(arguments)
    line = str(refused.value)
    assert "\n" not in line
    assert "secret" not in line
    assert "ret" not in line.replace("secret", "")


def test_a_flag_of_check_that_is_misspelt_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="there is no '--jsn'; did you mean --json"):
        command.main(["--jsn"])


async def test_a_broken_environment_does_not_stop_the_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PORT", "eight thousand")
    async with serve(ScriptedEngine("x")) as running:
        assert await run(f"127.0.0.1:{running.port}") == 0
    assert "the settings here are not used: PORT" in capsys.readouterr().err


async def test_a_broken_env_file_does_not_stop_the_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("API_KEY sk-1\n")
    (tmp_path / ".env").chmod(0o600)
    async with serve(ScriptedEngine("x")) as running:
        monkeypatch.chdir(tmp_path)
        assert await run(f"127.0.0.1:{running.port}") == 0
    assert "the settings here are not used: ENV_FILE: .env, line 1" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--json"]])
async def test_the_exit_code_is_the_verdict_though_nobody_reads_the_rows(
    arguments: list[str],
) -> None:
    async with serve(ScriptedEngine("x")) as running:
        url = f"http://127.0.0.1:{running.port}"
        assert await _unread("check", "--base-url", url, *arguments) == (0, b"")
    async with listening("/livez", JSONResponse({})) as url:
        assert await _unread("check", "--base-url", url, *arguments) == (1, b"")


@pytest.mark.parametrize("mode", ["check", "bench"])
async def test_help_that_nobody_reads_is_no_error(mode: str) -> None:
    assert await _unread(mode, "--help") == (0, b"")


@pytest.mark.parametrize("mode", WITH_VERDICT)
def test_a_verdict_that_is_not_known_is_not_that_all_is_well(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr("app.check.command.main", broken)
    monkeypatch.setattr("app.check.load.main", broken)
    monkeypatch.setattr("app.check.output.to_nobody", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main([mode])
    assert ended.value.code == 1


async def _unread(*words: str) -> tuple[int, bytes]:
    """The exit code of the program, and its stderr, if the reader of its stdout is gone."""
    reads, writes = os.pipe()
    os.close(reads)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "serve_hathora.py", *words,
        cwd=ROOT, stdout=writes, stderr=asyncio.subprocess.PIPE, env={**os.environ, "ENV_FILE": ""},
    )  # fmt: skip
    os.close(writes)
    _, errors = await process.communicate()
    return process.returncode or 0, errors


def test_the_port_and_the_key_come_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "8123")
    monkeypatch.setenv("API_KEY", "first,second")
    options = target.parsed(command.parser_of(), [])
    assert str(options.base_url) == "http://localhost:8123/"
    assert options.api_key == "first"


def test_a_port_of_this_machine_may_be_named_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UDS", "/run/s")
    options = target.parsed(command.parser_of(), ["--port", "8702"])
    assert (str(options.base_url), options.uds) == ("http://localhost:8702/", None)
    for other in (["--base-url", "http://here"], ["--uds", "/run/s"]):
        with pytest.raises(ConfigError, match="--port stands alone"):
            target.parsed(command.parser_of(), ["--port", "8702", *other])
