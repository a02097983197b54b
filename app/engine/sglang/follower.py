"""This machine's part of a model that is spread over several; node 0 serves it.

SGLang's processes here take their work from node 0, and end when node 0 ends them.
"""

from __future__ import annotations

import asyncio
from typing import Any

from app.engine.base import Watched
from app.lifecycle import Phase


class Follower:
    """`sglang.Engine` on a node other than 0: it takes no requests."""

    phase_when_up = Phase.FOLLOWING
    serves = None

    def __init__(self, engine: Any, watch: Watched) -> None:
        self._engine = engine
        self._watch = watch
        self.lost = watch.lost

    def all_warm(self) -> None:
        pass

    async def close(self) -> None:
        """End the processes here; node 0 cannot go on without them."""
        self._watch.close()
        await asyncio.to_thread(self._engine.shutdown)
