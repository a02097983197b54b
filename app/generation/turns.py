"""Work that is done one piece at a time: whose turn it is."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """A lock that passes to the waiter whose work is due first, not to the one that came first.

    Work that is due when it came, plus a time in proportion to its size, lets small work overtake
    large work, which still gets its turn: nothing that comes after it was due overtakes it.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._taken = False

    @asynccontextmanager
    async def turn(self, due: float) -> AsyncIterator[None]:
        """Hold the lock inside. `due`: on any one clock."""
        if self._taken:
            passed = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (due, next(self._order), passed))
            try:
                await passed
            except asyncio.CancelledError:
                if passed.done() and not passed.cancelled():  # it was passed on just now
                    self._pass_on()
                raise
        self._taken = True
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        self._taken = False
        while self._waiting:
            _, _, passed = heapq.heappop(self._waiting)
            if not passed.done():  # its waiter was not cancelled
                self._taken = True
                passed.set_result(None)
                return
