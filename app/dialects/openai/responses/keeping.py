"""What becomes of one response in the store."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from app.dialects.openai.responses import kept_items
from app.dialects.openai.responses.history import History
from app.dialects.openai.responses.response import Bytes, Rendered
from app.errors import StoreUnavailable
from app.logs.setup import log
from app.store.records import Added, Item, Kept, TooLarge
from app.store.store import Store
from app.types import Json

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
        history: History,
        parent: str | None,
        stored: bool,
    ) -> None:
        """`items`: what it answers. `stored`: False: only the conversation has it."""
        self._store, self._owner, self._id = store, owner, id
        self._items = items
        self._after = history.responses
        self._parent, self._conversation = parent, history.conversation
        self._stored = stored

    async def keep(self, status: str, response: Rendered, context: Sequence[Bytes] | None) -> None:
        """Raises StoreUnavailable. However it ends, the conversation is free again."""
        try:
            await self._keep(status, response, context)
        finally:
            if self._conversation is not None and status not in _UNFINISHED:
                await self._store.release(self._conversation, self._id)

    async def _keep(self, status: str, response: Rendered, context: Sequence[Bytes] | None) -> None:
        read = response.output if context is None else b",".join(context)
        added = None
        if self._conversation is not None and status in _ANSWERED:
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
                await self._store.put(self._owner, kept, added, after=self._after)
            except TooLarge as error:
                log.info("a response is not kept", response=self._id, reason=str(error))
                raise StoreUnavailable(str(error)) from None
        elif added is not None:
            await self._store.append(self._owner, added.conversation, added.items, holder=self._id)


def _parsed(items: bytes) -> list[Json]:
    parsed: list[Json] = orjson.loads(b"[%b]" % items)
    return parsed
