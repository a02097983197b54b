"""An engine that hangs: its processes run, it has work, and it says nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_LOOK_S = 1.0


async def stalled(silent_s: Callable[[], float], bound_s: float) -> None:
    """Return once `silent_s` is over `bound_s`; never if that is 0."""
    if not bound_s:
        await asyncio.Event().wait()
    while silent_s() <= bound_s:  # noqa: ASYNC110  # silence is no event
        await asyncio.sleep(min(_LOOK_S, bound_s / 10))
