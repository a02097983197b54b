"""The last errors of all serving processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from app.recent_errors import RecentErrors

NOTE = """
import sys
from pathlib import Path
from app.recent_errors import RecentErrors
errors = RecentErrors(lambda: Path(sys.argv[1]))
for no in range(25):
    errors.note(status=500, code=f"other-{no}", route="/v1/x", id="a")
"""


def note(errors: RecentErrors, code: str | None, status: int = 400, route: str = "/v1/x") -> None:
    errors.note(status=status, code=code, route=route, id="1")


def test_those_of_every_process_are_shown_the_newest_first(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", NOTE, str(tmp_path)], check=True)
    own = RecentErrors(lambda: tmp_path)
    note(own, "own")
    codes = [error.code for error in own.last()]
    own.close()
    assert codes == ["own", *(f"other-{no}" for no in range(24, 5, -1))]


def test_what_anybody_can_make_thousands_of_is_left_out(tmp_path: Path) -> None:
    errors = RecentErrors(lambda: tmp_path)
    note(errors, "invalid_api_key", status=401)
    note(errors, "method_not_allowed", status=405, route="/")
    note(errors, "client_closed_request", status=499)
    note(errors, "unknown_url", status=404, route="unmatched")
    assert errors.last() == []
    assert list(tmp_path.iterdir()) == []


def test_a_half_written_entry_of_another_process_is_skipped(tmp_path: Path) -> None:
    errors = RecentErrors(lambda: tmp_path)
    note(errors, "kept")
    file = tmp_path / f"errors_{os.getpid()}"
    other = tmp_path / "errors_1"
    other.write_bytes(b'{"at": 1.0, "sta'.ljust(512) + file.read_bytes())
    codes = [error.code for error in errors.last()]
    errors.close()
    assert codes == ["kept", "kept"]


def test_without_room_on_the_disk_this_process_still_shows_its_own(tmp_path: Path) -> None:
    errors = RecentErrors(lambda: tmp_path / "gone")
    note(errors, None)
    assert [error.code for error in errors.last()] == [""]


def test_long_texts_are_cut(tmp_path: Path) -> None:
    errors = RecentErrors(lambda: tmp_path)
    note(errors, "é" * 500, route="/" + "x" * 5000)
    (error,) = errors.last()
    errors.close()
    assert len(error.code) == len(error.route) == 80
    assert (tmp_path / f"errors_{os.getpid()}").stat().st_size == 512
