"""The command: no server, wrong usage, what comes from the settings."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from app.check import command
from app.errors import ConfigError
from tests.check.servers import run
from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve


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
        ["--api-key", "sec\nret"], ["--no-such-flag"],
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


def test_the_port_and_the_key_come_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "8123")
    monkeypatch.setenv("API_KEY", "first,second")
    options = command._arguments([])
    assert str(options.base_url) == "http://localhost:8123/"
    assert options.api_key == "first"
