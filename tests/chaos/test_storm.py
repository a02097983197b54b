"""Two minutes of the storm (storm.py), which `make chaos` runs for an hour."""

from __future__ import annotations

import os

import pytest

from tests.chaos.storm import storm

pytestmark = pytest.mark.live
MINUTES = float(os.environ.get("STORM_MINUTES", "2"))


async def test_no_answer_is_wrong_and_none_hangs_whatever_is_done_to_the_server() -> None:
    report, bad = await storm(MINUTES, seed=1, model="tiny")
    print(report.table())
    assert not bad
    assert not report.wrong
    assert not report.hung
