"""What this server has answered, for clients that refer to it: bounded, and each owner's own.

The store may fail, be full or be far away: every call ends within seconds, and StoreUnavailable
concerns the store alone. A call that its client has left goes on to its end, so that nothing is
half done. Several serving processes, and several servers, may share one database.

    put ─ get ─ chain ─ remove            responses
    hold ─ history ─ append ─ release     conversations: one response at a time
    claim ─ (cancelled) ─ put ─ disclaim  responses in the background, whose server may die

A task notes uses, keeps claims alive and removes what is over a bound.
"""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from app import metrics
from app.errors import StoreUnavailable
from app.store.access import Access, in_short
from app.store.records import Added, Conversation, Item, Kept, Page, TooLarge, Turn, is_id

if TYPE_CHECKING:
    from app.store.rows import Rows

T = TypeVar("T")
_ROUND_S = 1.0
"""Between rounds of the task."""
_TIDY_S = 60.0
_CLAIM_S = 30.0
"""A claim that is not renewed ends: its server is dead."""
_RENEW_S = 8.0
_LOW = 0.95
"""Over a bound, so much of it is kept: what is removed is not counted anew at every write."""
_PAGE_BYTES = 4 * 2**20


class Store:
    def __init__(
        self,
        url: str,
        *,
        most_responses: int,
        most_bytes: int,
        most_response_bytes: int,
        ttl_s: float,
    ) -> None:
        """`url`: of SQLite or PostgreSQL. `most_response_bytes`: of one response and its input."""
        self._access = Access(url)
        self._most_responses, self._most_bytes = most_responses, most_bytes
        self.most_response_bytes = most_response_bytes
        self._ttl_s = ttl_s
        self._server = uuid.uuid4().hex
        self._task: asyncio.Task[None] | None = None
        self._count, self._size = 0, 0
        """Of the whole store, as far as this process knows."""
        self._crowded = asyncio.Event()
        self._used: set[str] = set()
        self._conversations_used: set[str] = set()
        self._cancels: dict[str, Callable[[], None]] = {}
        """Of the responses that this process generates in the background: how one is ended."""
        self._holders: set[str] = set()
        """Responses of this process that hold a conversation."""
        self._renewed_at = 0.0

    def _start(self) -> None:
        """Begin to open the database. Idempotent."""
        if self._task is None:
            self._task = asyncio.create_task(self._live(), name="store")

    async def tried(self) -> None:
        """Returns once the first attempt to open the database has ended, well or not."""
        self._start()
        await self._access.tried()

    async def close(self) -> None:
        await self._access.settled()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._access.close()

    # -- responses -------------------------------------------------------------------------------

    async def put(
        self, owner: str, kept: Kept, added: Added | None = None, *, after: Sequence[str] = ()
    ) -> None:
        """Keep a response, and add to its conversation. `after`: those that it goes on from.

        Raises StoreUnavailable, TooLarge.
        """
        if kept.size > self.most_response_bytes:
            raise TooLarge(
                f"A response of {kept.size} bytes is not kept (STORE_MAX_RESPONSE_BYTES)."
            )
        claimed = kept.id in self._cancels
        running = claimed and kept.status == "in_progress"
        self._used.update(after)
        await self._call(
            "put",
            lambda rows: rows.responses.put(
                owner,
                kept,
                begins=not claimed or running,
                server=self._server if running else None,
                alive_s=_CLAIM_S if running else 0.0,
                added=added,
            ),
        )
        if added is not None:
            self._holders.discard(kept.id)
        metrics.STORED.inc()
        more = sum(len(item.body) for item in added.items) if added is not None else 0
        self._grow(kept.size + more)

    async def get(self, owner: str, id: str) -> Kept | None:
        """A response; its status is `dead` if it is not complete and never will be.

        Raises StoreUnavailable.
        """
        if not is_id(id):
            return None
        found = await self._call("get", lambda rows: rows.responses.get(owner, id))
        if found is None:
            return None
        kept, runs = found
        self._used.add(id)
        if kept.status in ("queued", "in_progress") and not runs and id not in self._cancels:
            kept.status = "dead"
        return kept

    async def fail(self, owner: str, kept: Kept) -> None:
        """Keep that a dead one has failed, unless it was removed. Raises StoreUnavailable."""
        await self._call(
            "put",
            lambda rows: rows.responses.put(
                owner, kept, begins=False, server=None, alive_s=0.0, added=None
            ),
        )

    async def parts(
        self, owner: str, ids: Sequence[str], *, of_input: bool, most_bytes: int
    ) -> dict[str, bytes]:
        """Inputs or outputs of responses, of those that are there.

        Raises StoreUnavailable, TooLong.
        """
        if not (ids := [id for id in ids if is_id(id)]):
            return {}
        found = await self._call(
            "get",
            lambda rows: rows.responses.parts(owner, ids, of_input=of_input, most_bytes=most_bytes),
        )
        self._used.update(found)
        return found

    async def chain(
        self, owner: str, id: str, *, most_bytes: int, most_items: int
    ) -> tuple[list[str], list[Turn]] | None:
        """As `ResponseRows.chain`. Raises StoreUnavailable, too."""
        if not is_id(id):
            return None
        found = await self._call(
            "chain",
            lambda rows: rows.responses.chain(
                owner, id, most_bytes=most_bytes, most_items=most_items
            ),
        )
        if found is not None:
            self._used.update(found[0])
        return found

    async def remove(self, owner: str, id: str) -> bool:
        """A response that another server generates is not kept when it ends."""
        if not is_id(id):
            return False
        return await self._call("remove", lambda rows: rows.responses.remove(owner, id))

    # -- responses in the background -------------------------------------------------------------

    def claim(self, id: str, cancel: Callable[[], None]) -> None:
        """This process generates it from now on; `cancel` ends that, as another may ask for."""
        self._cancels[id] = cancel

    def disclaim(self, id: str) -> None:
        """If it was not kept as ended, it is dead when its claim has run out."""
        self._cancels.pop(id, None)

    async def cancel(self, owner: str, id: str) -> None:
        """End a response that the owner has and some server generates. Raises StoreUnavailable."""
        if (cancel := self._cancels.get(id)) is not None:
            cancel()
        else:
            await self._call("cancel", lambda rows: rows.responses.ask_to_cancel(owner, id))

    # -- conversations ---------------------------------------------------------------------------

    async def start_conversation(
        self, owner: str, made: Conversation, items: Sequence[Item]
    ) -> None:
        await self._call("put", lambda rows: rows.conversations.start(owner, made, items))
        self._grow(len(made.metadata) + sum(len(item.body) for item in items))

    async def conversation(self, owner: str, id: str) -> Conversation | None:
        if not is_id(id):
            return None
        found = await self._call("get", lambda rows: rows.conversations.conversation(owner, id))
        if found is not None:
            self._conversations_used.add(id)
        return found

    async def describe(self, owner: str, id: str, metadata: bytes) -> bool:
        if not is_id(id):
            return False
        return await self._call(
            "put", lambda rows: rows.conversations.describe(owner, id, metadata)
        )

    async def end_conversation(self, owner: str, id: str) -> bool:
        if not is_id(id):
            return False
        return await self._call("remove", lambda rows: rows.conversations.end(owner, id))

    async def append(
        self, owner: str, id: str, items: Sequence[Item], *, holder: str | None = None
    ) -> bool:
        """`holder`: the response that must hold it."""
        if not is_id(id):
            return False
        added = await self._call(
            "put", lambda rows: rows.conversations.append(owner, id, items, holder=holder)
        )
        if added:
            self._grow(sum(len(item.body) for item in items), count=0)
        return added

    async def history(
        self, owner: str, id: str, *, most_bytes: int, most_items: int
    ) -> list[bytes] | None:
        """All items. None: there is no such conversation. Raises TooLong, StoreUnavailable."""
        if not is_id(id):
            return None
        found = await self._call(
            "chain",
            lambda rows: rows.conversations.history(
                owner, id, most_bytes=most_bytes, most_items=most_items
            ),
        )
        if found is not None:
            self._conversations_used.add(id)
        return found

    async def page(
        self, owner: str, id: str, *, after: str | None, limit: int, newest_first: bool
    ) -> Page | None:
        if not is_id(id) or (after is not None and not is_id(after)):
            return None
        found = await self._call(
            "get",
            lambda rows: rows.conversations.page(
                owner,
                id,
                after=after,
                limit=limit,
                newest_first=newest_first,
                most_bytes=_PAGE_BYTES,
            ),
        )
        if found is not None:
            self._conversations_used.add(id)
        return found

    async def item(self, owner: str, id: str, item: str) -> bytes | None:
        if not (is_id(id) and is_id(item)):
            return None
        return await self._call("get", lambda rows: rows.conversations.item(owner, id, item))

    async def remove_item(self, owner: str, id: str, item: str) -> bool:
        if not (is_id(id) and is_id(item)):
            return False
        return await self._call(
            "remove", lambda rows: rows.conversations.remove_item(owner, id, item)
        )

    async def items(self, owner: str, ids: Sequence[str], *, most_bytes: int) -> dict[str, bytes]:
        """Of any conversation of the owner's. Raises TooLong, StoreUnavailable."""
        known = [id for id in ids if is_id(id)]
        return await self._call(
            "get", lambda rows: rows.conversations.items(owner, known, most_bytes=most_bytes)
        )

    async def hold(self, owner: str, id: str, response: str) -> bool | None:
        """Lock a conversation for a response. False: another has it; None: it is not there."""
        if not is_id(id):
            return None
        self._holders.add(response)  # first: it may be taken, and its client gone
        taken: bool | None = False
        try:
            taken = await self._call(
                "hold", lambda rows: rows.conversations.hold(owner, id, response, _CLAIM_S)
            )
        except asyncio.CancelledError:
            await self.release(id, response)
            raise
        finally:
            if not taken:
                self._holders.discard(response)
        return taken

    async def release(self, id: str, response: str) -> None:
        """If it still holds it. Never raises: without it the lock ends by itself."""
        if response in self._holders:
            self._holders.discard(response)
            with suppress(StoreUnavailable):
                await self._call("release", lambda rows: rows.conversations.release(id, response))

    # -- use -------------------------------------------------------------------------------------

    async def _call(self, what: str, use: Callable[[Rows], Awaitable[T]]) -> T:
        self._start()
        return await self._access.call(what, use)

    def _grow(self, size: int, *, count: int = 1) -> None:
        self._count, self._size = self._count + count, self._size + size
        if self._is_over:
            self._crowded.set()

    @property
    def _is_over(self) -> bool:
        return self._count > self._most_responses or self._size > self._most_bytes

    # -- the task --------------------------------------------------------------------------------

    async def _live(self) -> None:
        rows = await self._access.open()
        tidied_at = -math.inf
        while True:
            try:
                await self._round(rows)
                if self._crowded.is_set() or time.monotonic() - tidied_at >= _TIDY_S:
                    self._crowded.clear()
                    await self._tidy(rows)
                    tidied_at = time.monotonic()
            except Exception as error:  # the next round may succeed; claims outlast several
                self._access.failed("round", in_short(error))
                await asyncio.sleep(_ROUND_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(_ROUND_S):
                    await self._crowded.wait()

    async def _round(self, rows: Rows) -> None:
        await self._flush(rows)
        if self._cancels:
            for id in await rows.responses.asked_to_cancel(self._server):
                if (cancel := self._cancels.get(id)) is not None:
                    cancel()
        due = time.monotonic() - self._renewed_at >= _RENEW_S
        if due and (self._cancels or self._holders):
            self._renewed_at = time.monotonic()
            await rows.upkeep.renew(
                self._server, list(self._cancels), list(self._holders), _CLAIM_S
            )

    async def _flush(self, rows: Rows) -> None:
        if self._used or self._conversations_used:
            responses, self._used = self._used, set()
            conversations, self._conversations_used = self._conversations_used, set()
            try:
                await rows.upkeep.note_use(list(responses), list(conversations))
            except BaseException:  # the end of the server included: uses are not lost
                self._used |= responses
                self._conversations_used |= conversations
                raise

    async def tidy(self) -> None:
        """Remove what is too old or over a bound. Raises what the database raises."""
        self._start()
        await self._tidy(await self._access.opened())

    async def _tidy(self, rows: Rows) -> None:
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
