"""What this server has answered, for clients that refer to it: bounded, and each owner's own.

The store may fail, be full or be far away: every call ends within seconds, and StoreUnavailable
concerns the store alone. A call that its client has left goes on to its end, so that nothing is
half done. Several serving processes, and several servers, may share one database.

    put ─ get ─ chain ─ remove            responses
    hold ─ history ─ append ─ release     conversations: one response at a time
    claim ─ (cancelled) ─ put ─ disclaim  responses in the background, whose server may die

A task notes uses, keeps claims alive and removes what is over a bound (care.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from app import metrics
from app.errors import StoreUnavailable
from app.store import care
from app.store.access import Access
from app.store.care import Care
from app.store.records import (
    RUNNING,
    Added,
    Conversation,
    Item,
    Kept,
    Page,
    TooLarge,
    Turn,
    is_id,
)

if TYPE_CHECKING:
    from app.store.rows import Rows

T = TypeVar("T")
_END_S = 8.0
"""For the task: its call may hang with the disk."""
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
        self._access: Access[Rows] = Access(url)
        self._care = Care(
            self._access, most_responses=most_responses, most_bytes=most_bytes, ttl_s=ttl_s
        )
        self.most_response_bytes = most_response_bytes
        self._task: asyncio.Task[None] | None = None

    def _start(self) -> None:
        """Begin to open the database. Idempotent."""
        if self._task is None:
            self._task = asyncio.create_task(self._care.take(), name="store")

    async def tried(self) -> None:
        """Returns once the first attempt to open the database has ended, well or not."""
        self._start()
        await self._access.tried()

    async def close(self) -> None:
        await self._access.settled()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=_END_S)
        await self._access.close()

    # -- responses -------------------------------------------------------------------------------

    async def put(
        self, owner: str, kept: Kept, added: Added | None = None, *, after: Sequence[str] = ()
    ) -> bool:
        """Keep a response, and add to its conversation. `after`: those that it goes on from.

        Returns False if it was removed while it was generated, or taken for dead.
        Raises StoreUnavailable, TooLarge.
        """
        if kept.size > self.most_response_bytes:
            raise TooLarge(
                f"A response of {kept.size} bytes is not kept (STORE_MAX_RESPONSE_BYTES)."
            )
        claimed = kept.id in self._care.cancels
        running = claimed and kept.status in RUNNING
        self._care.used.update(after)
        put = await self._call(
            "put",
            lambda rows: rows.responses.put(
                owner,
                kept,
                begins=not claimed or running,
                server=self._care.server if running else None,
                alive_s=care.CLAIM_S if running else 0.0,
                added=added,
            ),
        )
        if added is not None:
            self._care.holders.discard(kept.id)
        if put.written:
            metrics.STORED.inc()
            more = sum(len(item.body) for item in added.items) if added is not None else 0
            self._care.grow(kept.size + more)
            if not put.added:
                self._access.failed("put", "the conversation has been another's meanwhile")
        return put.written

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
        self._care.used.add(id)
        if (
            kept.status in RUNNING
            and not runs
            and id not in self._care.cancels
            and self._care.may_judge
        ):
            kept.status = "dead"
        return kept

    async def runs(self, owner: str, id: str) -> bool:
        """It is being generated, as far as is known. Raises StoreUnavailable."""
        if self._claimed(owner, id) is not None:
            return True
        if not is_id(id):
            return False
        alive = self._care.may_judge
        return await self._call("get", lambda rows: rows.responses.runs(owner, id, alive=alive))

    async def fail(self, owner: str, kept: Kept) -> bool:
        """Keep that one whose server has died has failed; False: it has ended otherwise. Raises
        StoreUnavailable."""
        return await self._call("put", lambda rows: rows.responses.fail_dead(owner, kept))

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
        self._care.used.update(found)
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
            self._care.used.update(found[0])
        return found

    async def remove(self, owner: str, id: str) -> bool:
        """A response that another server generates is not kept when it ends."""
        if not is_id(id):
            return False
        return await self._call("remove", lambda rows: rows.responses.remove(owner, id))

    # -- responses in the background -------------------------------------------------------------

    def claim(self, owner: str, id: str, cancel: Callable[[], None]) -> None:
        """This process generates it from now on; `cancel` ends that, as another may ask for."""
        self._care.cancels[id] = (owner, cancel)

    def _claimed(self, owner: str, id: str) -> Callable[[], None] | None:
        """What ends a response that this process generates for the owner."""
        claimed = self._care.cancels.get(id)
        return claimed[1] if claimed is not None and claimed[0] == owner else None

    def disclaim(self, id: str) -> None:
        """If it was not kept as ended, it is dead when its claim has run out."""
        self._care.cancels.pop(id, None)

    async def cancel(self, owner: str, id: str) -> None:
        """End a response that the owner has and some server generates. Raises StoreUnavailable."""
        if (cancel := self._claimed(owner, id)) is not None:
            cancel()
        elif is_id(id):
            await self._call("cancel", lambda rows: rows.responses.ask_to_cancel(owner, id))

    # -- conversations ---------------------------------------------------------------------------

    async def start_conversation(
        self, owner: str, made: Conversation, items: Sequence[Item]
    ) -> None:
        await self._call("put", lambda rows: rows.conversations.start(owner, made, items))
        self._care.grow(len(made.metadata) + sum(len(item.body) for item in items))

    async def conversation(self, owner: str, id: str) -> Conversation | None:
        if not is_id(id):
            return None
        found = await self._call("get", lambda rows: rows.conversations.conversation(owner, id))
        if found is not None:
            self._care.conversations_used.add(id)
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
            self._care.grow(sum(len(item.body) for item in items), count=0)
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
            self._care.conversations_used.add(id)
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
            self._care.conversations_used.add(id)
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
        self._care.holders.add(response)  # first: it may be taken, and its client gone
        taken: bool | None = False
        try:
            taken = await self._call(
                "hold", lambda rows: rows.conversations.hold(owner, id, response, care.CLAIM_S)
            )
        except asyncio.CancelledError:
            await self.release(id, response)
            raise
        finally:
            if not taken:
                self._care.holders.discard(response)
        return taken

    async def release(self, id: str, response: str) -> None:
        """If it still holds it. Never raises: without it the lock ends by itself."""
        if response in self._care.holders:
            self._care.holders.discard(response)
            with suppress(StoreUnavailable):
                await self._call("release", lambda rows: rows.conversations.release(id, response))

    # -- use -------------------------------------------------------------------------------------

    async def _call(self, what: str, use: Callable[[Rows], Awaitable[T]]) -> T:
        self._start()
        return await self._access.call(what, use)

    async def tidy(self) -> None:
        """Remove what is too old or over a bound. Raises what the database raises."""
        self._start()
        await self._care.tidy(await self._access.opened())
