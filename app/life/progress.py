"""What the start of the engine is doing, and how far it is."""

from __future__ import annotations

import re

from app.lifecycle import Lifecycle, Phase
from app.logs import setup as logs
from app.logs.progress import Progress

ACTIVITIES = {
    Phase.STARTING: "importing SGLang",
    Phase.LOADING: "loading the model",
    Phase.WARMING: "generating the first token",
}
_SHARDS = re.compile(rb"shards:[^\r]*?(\d+)/(\d+) \[[^\r]*$")
"""What SGLang's loader shows while it loads (0.5.23), of several schedulers one's."""


def progress_of(lifecycle: Lifecycle) -> Progress | None:
    """None: the start has ended, well or not."""
    if (activity := ACTIVITIES.get(lifecycle.phase)) is None:
        return None
    elapsed_s = lifecycle.uptime_s
    if (fetched := _under_way(lifecycle.fetched)) is not None:
        return Progress("downloading the model", elapsed_s, *fetched)
    if lifecycle.phase is Phase.LOADING and (
        shards := _SHARDS.search(logs.unfinished_line_of_child()[-500:])
    ):
        return Progress(activity, elapsed_s, int(shards[1]), int(shards[2]), "shards")
    if (read := _under_way(lifecycle.read)) is not None and lifecycle.phase is not Phase.WARMING:
        return Progress("reading the weights", elapsed_s, *read)
    return Progress(lifecycle.doing or activity, elapsed_s)


def _under_way(sizes: tuple[int, int] | None) -> tuple[int, int] | None:
    return sizes if sizes is not None and sizes[0] < sizes[1] else None
