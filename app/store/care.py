"""What is done in the background for the store: uses noted, claims kept alive, bounds kept.

every second     uses are written, responses that another server cancels are ended
every 8 s        this server's claims are renewed: of responses that it generates, and of
                 conversations that they hold
every minute,    what is too old goes, and what is over the bounds
or over a bound
"""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from app import awake, metrics
from app.store.access import Access, in_short

if TYPE_CHECKING:
    from app.store.rows import Rows

CLAIM_S = 30.0
"""A claim that is not renewed ends: its server is dead."""
_RENEW_S = 8.0
_ROUND_S = 1.0
_TIDY_S = 60.0
_LOW = 0.95
"""Over a bound, so much of it is kept: what is removed is not counted anew at every write."""


class Care:
    def __init__(
        self, access: Access[Rows], *, most_responses: int, most_bytes: int, ttl_s: float
    ) -> None:
        self._access = access
        self._most_responses, self._most_bytes, self._ttl_s = most_responses, most_bytes, ttl_s
        self.server = uuid.uuid4().hex
        self.used: set[str] = set()
        """Responses, since the last round."""
        self.conversations_used: set[str] = set()
        self.cancels: dict[str, tuple[str, Callable[[], None]]] = {}
        """Of the responses that this process generates in the background: the owner, and what ends
        it."""
        self.holders: set[str] = set()
        """Responses of this process that hold a conversation."""
        self.crowded = asyncio.Event()
        """It is over a bound."""
        self._count, self._size = 0, 0
        """Of the whole store, as far as this process knows."""
        self._renewed_at = 0.0
        self._steady_since = awake.now()

    @property
    def may_judge(self) -> bool:
        """Whether another server's claim that has ended says that it is dead: while the store was
        away, or all servers were frozen, none could be renewed."""
        return awake.now() - max(self._steady_since, awake.AWAKE.thawed_at) >= CLAIM_S

    def grow(self, size: int, *, count: int = 1) -> None:
        self._count, self._size = self._count + count, self._size + size
        if self._is_over:
            self.crowded.set()

    @property
    def _is_over(self) -> bool:
        return self._count > self._most_responses or self._size > self._most_bytes

    async def take(self) -> None:
        """Until it is cancelled. To tidy may take longer than a claim lasts."""
        rows = await self._access.open()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._rounds(rows))
            tasks.create_task(self._tidying(rows))

    async def _rounds(self, rows: Rows) -> None:
        while True:
            try:
                await self._round(rows)
            except Exception as error:  # the next round may succeed; claims outlast several
                self._steady_since = awake.now()
                self._access.failed("round", in_short(error))
            await asyncio.sleep(_ROUND_S)

    async def _tidying(self, rows: Rows) -> None:
        tidied_at = -math.inf
        while True:
            if self.crowded.is_set() or time.monotonic() - tidied_at >= _TIDY_S:
                self.crowded.clear()
                try:
                    await self.tidy(rows)
                    tidied_at = time.monotonic()
                except Exception as error:  # the next time may succeed
                    self._access.failed("evict", in_short(error))
                    await asyncio.sleep(_ROUND_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(_ROUND_S):
                    await self.crowded.wait()

    async def _round(self, rows: Rows) -> None:
        await self._flush(rows)
        if self.cancels:
            for id in await rows.responses.asked_to_cancel(self.server):
                if (claimed := self.cancels.get(id)) is not None:
                    claimed[1]()
        due = time.monotonic() - self._renewed_at >= _RENEW_S
        if due and (self.cancels or self.holders):
            await rows.upkeep.renew(self.server, list(self.cancels), list(self.holders), CLAIM_S)
            self._renewed_at = time.monotonic()

    async def _flush(self, rows: Rows) -> None:
        if self.used or self.conversations_used:
            responses, self.used = self.used, set()
            conversations, self.conversations_used = self.conversations_used, set()
            try:
                await rows.upkeep.note_use(list(responses), list(conversations))
            except BaseException:  # the end of the server included: uses are not lost
                self.used |= responses
                self.conversations_used |= conversations
                raise

    async def tidy(self, rows: Rows) -> None:
        """Remove what is too old or over a bound. Raises what the database raises."""
        await self._flush(rows)
        old = await rows.upkeep.remove_unused(time.time() - self._ttl_s)
        metrics.STORE_EVICTED.labels("age").inc(old)
        self._count, self._size = await rows.upkeep.totals()
        if self._is_over:
            removed = await rows.upkeep.remove_oldest(
                count=int(self._most_responses * _LOW), size=int(self._most_bytes * _LOW)
            )
            metrics.STORE_EVICTED.labels("bounds").inc(removed)
            self._count, self._size = await rows.upkeep.totals()
            old += removed
        if old:
            await rows.shrink()
