"""The engine's load: one reading at a time, for all that ask for it, and none waits for it long.

A scheduler that was stopped while it wrote its load holds a lock, and blocks the thread that reads
it for as long as it is stopped. Each request with a reading of its own would so take a thread from
all else that needs one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from app.engine.base import Load
from app.errors import Overloaded

LONGEST_S = 2.0
"""From the beginning of a reading; who asks later than that about the same one does not wait."""


class LoadReading:
    def __init__(self, read: Callable[[], Awaitable[list[Load]]]) -> None:
        self._read = read
        self._reading: asyncio.Future[list[Load]] | None = None
        self._began = 0.0

    async def loads(self) -> list[Load]:
        """Of each replica. Raises Overloaded if it is not known in time, and what `read` raises."""
        reading = self._reading
        if reading is None or reading.done():
            reading = self._reading = asyncio.ensure_future(self._read())
            reading.add_done_callback(_note)
            self._began = time.monotonic()
        # Not cancelled with a caller: others wait for it, and its thread would go on anyway.
        left_s = self._began + LONGEST_S - time.monotonic()
        await asyncio.wait({reading}, timeout=max(0.0, left_s))
        if not reading.done():
            raise Overloaded(f"The engine has not said its load within {LONGEST_S:g} s.")
        return reading.result()


def _note(reading: asyncio.Future[list[Load]]) -> None:
    """Mark its error as seen: all callers may have timed out, and asyncio would log it."""
    if not reading.cancelled():
        reading.exception()
