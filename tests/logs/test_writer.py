"""The writer's thread: batches, lines that are lost, lines that cannot be rendered."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from app.logs import writer as writers
from app.logs.form import Form
from app.logs.writer import File, Writer


class Memory:
    """A target that keeps what is written, or fails."""

    def __init__(self, *, fails: bool = False) -> None:
        self.form = Form("json")
        self.written: list[str] = []
        self._fails = fails

    def write(self, lines: str) -> None:
        if self._fails:
            raise BrokenPipeError
        self.written += lines.splitlines()


def line(event: str) -> dict[str, Any]:
    return {"event": event, "level": "info"}


def test_what_is_queued_is_written_before_the_writer_ends() -> None:
    target = Memory()
    writer = Writer([target])
    writer.start()
    for no in range(1200):
        writer.put(line(f"line {no}"))
    writer.stop()
    assert len(target.written) == 1200
    assert target.written[-1] == '{"event":"line 1199","level":"info"}'
    assert writer.lost == 0


def test_a_full_queue_costs_lines_and_counts_them() -> None:
    writer = Writer([Memory()])  # not started: nothing takes lines from its queue
    for _ in range(writers._QUEUE_SIZE + 3):
        writer.put(line("full"))
    assert writer.lost == 3


def test_a_target_that_cannot_be_written_does_not_keep_lines_from_the_others() -> None:
    broken, target = Memory(fails=True), Memory()
    writer = Writer([broken, target])
    writer.start()
    writer.put(line("still here"))
    writer.stop()
    assert target.written == ['{"event":"still here","level":"info"}']
    assert writer.lost == 1


def test_a_record_that_cannot_be_rendered_does_not_lose_its_batch() -> None:
    target = Memory()
    writer = Writer([target])
    wrong = logging.LogRecord("library", logging.INFO, "file", 1, "%d", ("text",), None)
    for each in (wrong, line("after it")):
        writer.put(each)
    writer.start()
    writer.stop()
    assert target.written[0].startswith("library: a line that cannot be formatted: ")
    assert target.written[1:] == ['{"event":"after it","level":"info"}']


@pytest.mark.parametrize("rotates", [True, False])
def test_only_the_servers_user_can_read_the_log_file_and_those_before_it(
    rotates: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "_FILE_BYTES", 10)
    file = File(Form("json"), str(tmp_path / "serve.log"), rotates=rotates)
    for _ in range(2):
        file.write("a prompt, at debug\n")
    file._handler.close()
    modes = [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()]
    assert modes == [0o600] * (2 if rotates else 1)
