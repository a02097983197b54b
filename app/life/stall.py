"""An engine that hangs: its processes run, it has work, and it says nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

_LOOK_S = 1.0
_STOOD_STILL_S = 5.0
"""A look that comes so late says that this process stood still, such as in a paused container."""


async def stalled(silent_s: Callable[[], float], bound_s: float) -> None:
    """Return once `silent_s` is over `bound_s`; never if that is 0.

    What passed while this process stood still does not count: the engine stood still, too, or its
    words have not been read yet.
    """
    if not bound_s:
        await asyncio.Event().wait()
    look_s = min(_LOOK_S, bound_s / 10)
    looked = awake_since = time.monotonic()
    while min(silent_s(), looked - awake_since) <= bound_s:
        await asyncio.sleep(look_s)
        now = time.monotonic()
        if now - looked > look_s + _STOOD_STILL_S:
            awake_since = now
        looked = now
