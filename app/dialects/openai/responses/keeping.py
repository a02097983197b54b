"""What becomes of one response in the store."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from app.dialects.openai.responses import kept_items
from app.dialects.openai.responses.response import Rendered
from app.store.records import Added, Item, Kept
from app.store.store import Store

_UNFINISHED = ("queued", "in_progress")
_ANSWERED = ("completed", "incomplete")


class ResponseKeeper:
    """Keeps a response with what it answers, and adds both to its conversation."""

    def __init__(
        self,
        store: Store,
        owner: str,
        id: str,
        *,
        items: Sequence[Item],
        parent: str | None,
        conversation: str | None,
        stored: bool,
    ) -> None:
        """`items`: what it answers. `stored`: False: only the conversation has it."""
        self._store, self._owner, self._id = store, owner, id
        self._items = items
        self._parent, self._conversation = parent, conversation
        self._stored = stored

    async def keep(self, status: str, response: Rendered) -> None:
        """Raises StoreUnavailable. However it ends, the conversation is free again."""
        try:
            await self._keep(status, response)
        finally:
            if self._conversation is not None and status not in _UNFINISHED:
                await self._store.release(self._conversation, self._id)

    async def _keep(self, status: str, response: Rendered) -> None:
        added = None
        if self._conversation is not None and status in _ANSWERED:
            answered = orjson.loads(b"[%b]" % response.output)
            output = [Item(str(item["id"]), orjson.dumps(item)) for item in answered]
            added = Added(self._conversation, [*self._items, *output])
        if self._stored:
            kept = Kept(
                id=self._id,
                status=status,
                head=response.head,
                output=response.output,
                tail=response.tail,
                input=kept_items.joined(self._items),
                parent=self._parent,
                conversation=self._conversation,
            )
            await self._store.put(self._owner, kept, added)
        elif added is not None:
            await self._store.append(self._owner, added.conversation, added.items)
