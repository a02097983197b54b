"""What a start is doing, by what is known of it."""

from __future__ import annotations

from typing import Any

import pytest

from app.life.progress import progress_of
from app.lifecycle import Lifecycle, Phase
from app.logs import setup as logs
from app.logs.progress import Progress

SHARDS = b"Multi-thread loading shards:  50% Completed | 2/4 [00:01<00:01,  1.27it/s]"


@pytest.mark.parametrize(
    ("phase", "known", "activity", "counted"),
    [
        (Phase.STARTING, {}, "importing SGLang", (0, 0, "B")),
        (Phase.STARTING, {"doing": "making the demo model"}, "making the demo model", (0, 0, "B")),
        (Phase.STARTING, {"fetched": (3, 9)}, "downloading the model", (3, 9, "B")),
        (Phase.LOADING, {"fetched": (3, 9)}, "downloading the model", (3, 9, "B")),
        (Phase.LOADING, {"fetched": (9, 9)}, "loading the model", (0, 0, "B")),
        (Phase.STARTING, {"fetched": (9, 9), "read": (1, 9)}, "reading the weights", (1, 9, "B")),
        (Phase.LOADING, {"read": (9, 9)}, "loading the model", (0, 0, "B")),
        (Phase.LOADING, {"bar": b"\r  0% | 0/4 [\r" + SHARDS, "read": (1, 9)},
         "loading the model", (2, 4, "shards")),
        (Phase.LOADING, {"bar": b"no shards: 1/2"}, "loading the model", (0, 0, "B")),
        (Phase.WARMING, {"read": (1, 9)}, "generating the first token", (0, 0, "B")),
    ],
)  # fmt: skip
def test_the_progress_is_of_what_is_waited_for(
    phase: Phase, known: Any, activity: str, counted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lifecycle = Lifecycle()
    lifecycle.enter(phase)
    monkeypatch.setattr(logs, "unfinished_line_of_child", lambda: known.get("bar", b""))
    for name, value in known.items():
        setattr(lifecycle, name, value)
    progress = progress_of(lifecycle)
    assert progress is not None
    assert progress == Progress(activity, progress.elapsed_s, *counted)


@pytest.mark.parametrize("phase", [Phase.READY, Phase.FOLLOWING, Phase.FAILED, Phase.DRAINING])
def test_a_start_that_has_ended_has_no_progress(phase: Phase) -> None:
    lifecycle = Lifecycle()
    lifecycle.enter(phase)
    assert progress_of(lifecycle) is None
