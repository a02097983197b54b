"""What becomes of one response in the store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import orjson

from app.dialects.openai.responses import kept_items
from app.dialects.openai.responses.history import History
from app.dialects.openai.responses.response import Bytes, Rendered
from app.errors import StoreUnavailable, TooLargeToKeep
from app.logs.setup import log
from app.store.records import ANSWERED, RUNNING, Added, Item, Kept, NotKept, TooLarge
from app.store.store import Store
from app.types import Json

_RETRY_S = (0.5, 10.0)
"""Between attempts: the first and the longest."""


class ResponseKeeper:
    """Keeps a response with what it answers, and adds both to its conversation."""

    def __init__(
        self,
        store: Store,
        owner: str,
        id: str,
        *,
        items: Sequence[Item],
        history: History,
        parent: str | None,
        stored: bool,
        patience_s: float = 0.0,
    ) -> None:
        """`items`: what it answers. `stored`: False: only the conversation has it. `patience_s`:
        for a store that is away when the response ends, and no client waits for its last event."""
        self._store, self._owner, self._id = store, owner, id
        self._items = items
        self._after = history.responses
        self._parent, self._conversation = parent, history.conversation
        self._stored, self._patience_s = stored, patience_s
        self._begun = False
        """It is kept as one that is being generated."""

    async def keep(self, status: str, response: Rendered, context: Sequence[Bytes] | None) -> None:
        """However it ends, the conversation is free again.

        Raises StoreUnavailable, TooLargeToKeep, NotKept.
        """
        ends, (wait_s, longest_s) = time.monotonic() + self._patience_s, _RETRY_S
        again = False
        try:
            while True:
                try:
                    await self._keep(status, response, context)
                    return
                except NotKept:
                    if again and await self._has(status):  # the call that failed has succeeded late
                        return
                    raise
                except StoreUnavailable:
                    again = True
                    if status in (*RUNNING, "cancelled") or time.monotonic() + wait_s > ends:
                        raise
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, longest_s)
        finally:
            if status not in RUNNING:
                await self.release()

    async def release(self) -> None:
        """Let go of its conversation. Idempotent."""
        if self._conversation is not None:
            await self._store.release(self._conversation, self._id)

    async def _keep(self, status: str, response: Rendered, context: Sequence[Bytes] | None) -> None:
        read = response.output if context is None else b",".join(context)
        added = None
        if self._conversation is not None and status in ANSWERED:
            output = [Item(str(item["id"]), orjson.dumps(item)) for item in _parsed(read)]
            added = Added(self._conversation, [*self._items, *output])
        if self._stored:
            kept = Kept(
                id=self._id,
                status=status,
                head=response.head,
                output=response.output,
                tail=response.tail,
                input=kept_items.joined(self._items),
                context=None if context is None else read,
                items=len(self._items) + response.items,
                parent=self._parent,
                conversation=self._conversation,
            )
            try:
                written = await self._store.put(self._owner, kept, added, after=self._after)
            except TooLarge as error:
                log.info("a response is not kept", response=self._id, reason=str(error))
                if self._begun:  # else it would be taken for one whose server has died
                    await self._store.remove(self._owner, self._id)
                if added is not None:
                    await self._append(added)
                raise TooLargeToKeep(str(error)) from None
            if not written:
                raise NotKept
            self._begun = status in RUNNING
        elif added is not None:
            await self._append(added)

    async def _has(self, status: str) -> bool:
        kept = await self._store.get(self._owner, self._id)
        return kept is not None and kept.status == status

    async def _append(self, added: Added) -> None:
        conversation = added.conversation
        if not await self._store.append(self._owner, conversation, added.items, holder=self._id):
            log.warning("a turn is lost: its conversation has been another's", id=conversation)


def _parsed(items: bytes) -> list[Json]:
    parsed: list[Json] = orjson.loads(b"[%b]" % items)
    return parsed
