"""What is done in the background for files: uploads claimed, what is too old or left removed.

every 8 s     the claims of this server's uploads are renewed
every 10 s    what is too old goes, and what servers that have died were receiving or removing
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from app import awake, metrics
from app.files.storage import Storage, StorageFailed
from app.logs.setup import log
from app.settings.secrets import hidden
from app.store.access import Access, in_short

if TYPE_CHECKING:
    from app.store.file_rows import Rows

CLAIM_S = 30.0
"""A claim that is not renewed ends: its server is dead."""
_ROUND_S = 2.0
_RENEW_S = 8.0
_SWEEP_S = 10.0
_REMOVING_S = 120.0
"""For a server to remove what it has found, until another tries."""


class FileCare:
    def __init__(self, access: Access[Rows], storage: Storage) -> None:
        self._access, self._storage = access, storage
        self.uploads: set[str] = set()
        """Those that this process receives."""
        self._renewed_at = self._swept_at = 0.0
        self._steady_since = awake.now()

    async def take(self) -> None:
        """Until it is cancelled."""
        rows = await self._access.open()
        self._steady_since = awake.now()
        while True:
            try:
                await self._round(rows)
            except Exception as error:  # the next round may succeed; claims outlast several
                self._steady_since = awake.now()
                self._access.failed("round", in_short(error))
            await asyncio.sleep(_ROUND_S)  # what it looks for are times that pass

    async def _round(self, rows: Rows) -> None:
        now = time.monotonic()
        if self.uploads and now - self._renewed_at >= _RENEW_S:
            await rows.renew(list(self.uploads), CLAIM_S)
            self._renewed_at = now
        # While the database was away, or all were frozen, no claim could be renewed by any server.
        steady_s = awake.now() - max(self._steady_since, awake.AWAKE.thawed_at)
        if steady_s >= CLAIM_S and now - self._swept_at >= _SWEEP_S:
            self._swept_at = now
            await self._sweep(rows)

    async def _sweep(self, rows: Rows) -> None:
        old, left = await rows.stale(_REMOVING_S)
        for ids, event in ((old, "expired"), (left, "swept")):
            removed = await self._removed(ids)
            await rows.drop(removed)
            metrics.FILES.labels(event).inc(len(removed))
        if left:
            log.info("files that were left have been removed", files=len(left))

    async def _removed(self, ids: Sequence[str]) -> list[str]:
        """Those whose content is gone."""
        removed: list[str] = []
        for id in ids:
            try:
                await self._storage.remove(id)
            except StorageFailed as error:
                log.warning("a file is not removed yet", file=id, reason=hidden(str(error)))
            else:
                removed.append(id)
        return removed
