"""The command: no server, wrong usage, what comes from the settings."""

from __future__ import annotations

import socket

import pytest

from app.check import command
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
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        command.main(arguments)
    assert exit.value.code == 2
    error_text = capsys.readouterr().err
    assert "secret" not in error_text
    assert "ret" not in error_text.replace("secret", "")


async def test_a_broken_environment_does_not_stop_the_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PORT", "eight thousand")
    async with serve(ScriptedEngine("x")) as running:
        assert await run(f"127.0.0.1:{running.port}") == 0
    assert "the settings here are not used: PORT" in capsys.readouterr().err


def test_the_port_and_the_key_come_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "8123")
    monkeypatch.setenv("API_KEY", "first,second")
    options = command._arguments([])
    assert str(options.base_url) == "http://localhost:8123/"
    assert options.api_key == "first"
