"""What this server has answered, for clients that refer to it: bounded, and each owner's own.

The store may fail, be full or be far away: every call ends within seconds, and StoreUnavailable
concerns the store alone. Several serving processes, and several servers, may share one database.

    put ─ get ─ chain ─ remove            responses
    hold ─ history ─ append ─ release     conversations: one response at a time
    claim ─ (cancelled) ─ put ─ disclaim  responses in the background, whose server may die

A task notes uses, keeps claims alive and removes what is over a bound.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from app import metrics
from app.errors import ConfigError, StoreUnavailable
from app.logs.setup import log
from app.settings.catalogue import Settings
from app.store.records import Added, Conversation, Item, Kept, Page, Turn

if TYPE_CHECKING:
    from app.store.rows import Rows

FILE = "responses.sqlite3"
_OPEN_S = 2.0
"""That a call waits for the database to be opened."""
_CALL_S = 8.0
"""That a call may take: longer than SQLite waits for another process's write."""
_RETRY_S = (1.0, 30.0)
"""Between attempts to open the database: the first and the longest."""
_ROUND_S = 1.0
"""Between rounds of the task."""
_TIDY_S = 60.0
_CLAIM_S = 90.0
"""A claim that is not renewed ends: its server is dead."""
_RENEW_S = 20.0
_COMPLAIN_S = 60.0
_LOW = 0.95
"""Over a bound, so much of it is kept: what is removed is not counted anew at every write."""


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
        self._url = url
        self._most_responses, self._most_bytes = most_responses, most_bytes
        self._most_response_bytes = most_response_bytes
        self._ttl_s = ttl_s
        self._server = uuid.uuid4().hex
        self._rows: Rows | None = None
        self._opened = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._count, self._size = 0, 0
        """Of the whole store, as far as this process knows."""
        self._used: set[str] = set()
        self._conversations_used: set[str] = set()
        self._cancels: dict[str, Callable[[], None]] = {}
        """Of the responses that this process generates in the background: how one is ended."""
        self._holders: set[str] = set()
        """Responses of this process that hold a conversation."""
        self._complained_at = -_COMPLAIN_S
        self._renewed_at = 0.0

    def start(self) -> None:
        """Begin to open the database. Idempotent."""
        if self._task is None:
            self._task = asyncio.create_task(self._live(), name="store")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._rows is not None:
            with suppress(Exception):  # it may have failed long ago, and nothing is lost with it
                await asyncio.wait_for(self._flush(self._rows), _OPEN_S)
            await self._rows.close()

    # -- responses -------------------------------------------------------------------------------

    async def put(self, owner: str, kept: Kept, added: Added | None = None) -> None:
        """Keep a response, and add to its conversation. Raises StoreUnavailable."""
        if kept.size > self._most_response_bytes:
            raise self._failed("put", f"a response of {kept.size} bytes is not kept")
        claimed = kept.id in self._cancels
        async with self._use("put") as rows:
            await rows.responses.put(
                owner,
                kept,
                begins=not claimed or kept.status == "queued",
                server=self._server if claimed else None,
                alive_until=time.time() + _CLAIM_S if claimed else 0.0,
                added=added,
            )
        self._holders.discard(kept.id)
        self._count, self._size = self._count + 1, self._size + kept.size
        metrics.STORED.inc()
        if self._count > self._most_responses or self._size > self._most_bytes:
            async with self._use("evict") as rows:
                await self._remove_oldest(rows)

    async def get(self, owner: str, id: str) -> Kept | None:
        """A response; its status is `dead` if it is not complete and never will be.

        Raises StoreUnavailable.
        """
        async with self._use("get") as rows:
            found = await rows.responses.get(owner, id)
        if found is None:
            return None
        kept, alive_until = found
        self._used.add(id)
        if alive_until is not None and id not in self._cancels and alive_until < time.time():
            kept.status = "dead"
        return kept

    async def parts(self, owner: str, ids: Sequence[str], *, most_bytes: int) -> dict[str, Turn]:
        """Input and output of responses, of those that are there. Raises StoreUnavailable,
        TooLong."""
        async with self._use("get") as rows:
            found = await rows.responses.parts(owner, ids, most_bytes=most_bytes)
        self._used.update(found)
        return found

    async def chain(self, owner: str, id: str, *, most_bytes: int) -> list[Turn] | None:
        """As `ResponseRows.chain`. Raises StoreUnavailable."""
        async with self._use("chain") as rows:
            found = await rows.responses.chain(owner, id, most_bytes=most_bytes)
        if found is None:
            return None
        ids, turns = found
        self._used.update(ids)
        return turns

    async def remove(self, owner: str, id: str) -> bool:
        """A response that another server generates is not kept when it ends."""
        async with self._use("remove") as rows:
            return await rows.responses.remove(owner, id)

    # -- responses in the background -------------------------------------------------------------

    def claim(self, id: str, cancel: Callable[[], None]) -> None:
        """This process generates it from now on; `cancel` ends that, as another may ask for."""
        self._cancels[id] = cancel

    def disclaim(self, id: str) -> None:
        self._cancels.pop(id, None)

    async def cancel(self, owner: str, id: str) -> None:
        """End a response that the owner has and some server generates. Raises StoreUnavailable."""
        if (cancel := self._cancels.get(id)) is not None:
            cancel()
            return
        async with self._use("cancel") as rows:
            await rows.responses.ask_to_cancel(owner, id)

    # -- conversations ---------------------------------------------------------------------------

    async def start_conversation(
        self, owner: str, made: Conversation, items: Sequence[Item]
    ) -> None:
        async with self._use("put") as rows:
            await rows.conversations.start(owner, made, items)
        self._count += 1
        self._size += len(made.metadata) + sum(len(item.body) for item in items)
        if self._count > self._most_responses or self._size > self._most_bytes:
            async with self._use("evict") as rows:
                await self._remove_oldest(rows)

    async def conversation(self, owner: str, id: str) -> Conversation | None:
        async with self._use("get") as rows:
            return await rows.conversations.conversation(owner, id)

    async def describe(self, owner: str, id: str, metadata: bytes) -> bool:
        async with self._use("put") as rows:
            return await rows.conversations.describe(owner, id, metadata)

    async def end_conversation(self, owner: str, id: str) -> bool:
        async with self._use("remove") as rows:
            return await rows.conversations.end(owner, id)

    async def append(self, owner: str, id: str, items: Sequence[Item]) -> bool:
        async with self._use("put") as rows:
            done = await rows.conversations.append(owner, id, items)
        if done:
            self._size += sum(len(item.body) for item in items)
        return done

    async def history(self, owner: str, id: str, *, most_bytes: int) -> list[bytes] | None:
        """All items. None: there is no such conversation. Raises TooLong, StoreUnavailable."""
        self._conversations_used.add(id)
        async with self._use("chain") as rows:
            return await rows.conversations.history(owner, id, most_bytes=most_bytes)

    async def page(
        self, owner: str, id: str, *, after: str | None, limit: int, newest_first: bool
    ) -> Page | None:
        async with self._use("get") as rows:
            return await rows.conversations.page(
                owner, id, after=after, limit=limit, newest_first=newest_first
            )

    async def item(self, owner: str, id: str, item: str) -> bytes | None:
        async with self._use("get") as rows:
            return await rows.conversations.item(owner, id, item)

    async def remove_item(self, owner: str, id: str, item: str) -> bool:
        async with self._use("remove") as rows:
            return await rows.conversations.remove_item(owner, id, item)

    async def items(self, owner: str, ids: Sequence[str], *, most_bytes: int) -> dict[str, bytes]:
        async with self._use("get") as rows:
            return await rows.conversations.items(owner, ids, most_bytes=most_bytes)

    async def hold(self, owner: str, id: str, response: str) -> bool | None:
        """Lock a conversation for a response. False: another has it; None: it is not there."""
        async with self._use("hold") as rows:
            taken = await rows.conversations.hold(owner, id, response, time.time() + _CLAIM_S)
        if taken:
            self._holders.add(response)
        return taken

    async def release(self, id: str, response: str) -> None:
        """If it still holds it. Never raises: without it the lock ends by itself."""
        if response in self._holders:
            self._holders.discard(response)
            with suppress(StoreUnavailable):
                async with self._use("release") as rows:
                    await rows.conversations.release(id, response)

    # -- use -------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _use(self, what: str) -> AsyncIterator[Rows]:
        """The database, for one call. What fails in it becomes StoreUnavailable."""
        from sqlalchemy.exc import SQLAlchemyError

        self.start()
        try:
            async with asyncio.timeout(_OPEN_S):
                await self._opened.wait()
        except TimeoutError:
            raise self._failed(what, "it is not open") from None
        assert self._rows is not None
        try:
            async with asyncio.timeout(_CALL_S):
                yield self._rows
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            raise self._failed(what, _in_short(error)) from None

    def _failed(self, what: str, why: str) -> StoreUnavailable:
        metrics.STORE_FAILURES.labels(what).inc()
        now = time.monotonic()
        if now - self._complained_at >= _COMPLAIN_S:
            self._complained_at = now
            log.error("the store of responses fails", call=what, reason=why)
        return StoreUnavailable("The store of responses is not available; please try again.")

    # -- the task --------------------------------------------------------------------------------

    async def _live(self) -> None:
        rows = await self._open()
        tidied_at = time.monotonic()
        while True:
            await asyncio.sleep(_ROUND_S)
            try:
                async with asyncio.timeout(6 * _CALL_S):
                    await self._round(rows)
                    if time.monotonic() - tidied_at >= _TIDY_S:
                        await self.tidy()
                        tidied_at = time.monotonic()
            except Exception as error:  # the next round may succeed; claims outlast several
                self._failed("round", _in_short(error))

    async def _open(self) -> Rows:
        wait_s, longest_s = _RETRY_S
        while True:
            rows: Rows | None = None
            try:
                # SQLAlchemy takes half a second, which nothing at the start should wait for.
                module = await asyncio.to_thread(importlib.import_module, "app.store.rows")
                rows = module.Rows(self._url)
                async with asyncio.timeout(_CALL_S):
                    await rows.create()
                    self._count, self._size = await rows.upkeep.totals()
            except Exception as error:  # whatever it is, the server serves without a store
                if rows is not None:
                    with suppress(Exception):
                        await rows.close()
                self._failed("open", _in_short(error))
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, longest_s)
            else:
                self._rows = rows
                self._opened.set()
                log.info("the store of responses is open", kept=self._count, bytes=self._size)
                return rows

    async def _round(self, rows: Rows) -> None:
        await self._flush(rows)
        if not self._cancels and not self._holders:
            return
        if self._cancels:
            for id in await rows.responses.asked_to_cancel(self._server):
                if (cancel := self._cancels.get(id)) is not None:
                    cancel()
        if time.monotonic() - self._renewed_at >= _RENEW_S:
            self._renewed_at = time.monotonic()
            await rows.upkeep.renew(self._server, list(self._holders), time.time() + _CLAIM_S)

    async def _flush(self, rows: Rows) -> None:
        if self._used or self._conversations_used:
            responses, self._used = list(self._used), set()
            conversations, self._conversations_used = list(self._conversations_used), set()
            await rows.upkeep.note_use(responses, conversations)

    async def tidy(self) -> None:
        """Remove what is too old or over a bound. Raises StoreUnavailable."""
        async with self._use("evict") as rows:
            await self._flush(rows)
            metrics.STORE_EVICTED.labels("age").inc(
                await rows.upkeep.remove_unused(time.time() - self._ttl_s)
            )
            self._count, self._size = await rows.upkeep.totals()
            if self._count > self._most_responses or self._size > self._most_bytes:
                await self._remove_oldest(rows)

    async def _remove_oldest(self, rows: Rows) -> None:
        await self._flush(rows)
        removed = await rows.upkeep.remove_oldest(
            count=int(self._most_responses * _LOW), size=int(self._most_bytes * _LOW)
        )
        metrics.STORE_EVICTED.labels("bounds").inc(removed)
        self._count, self._size = await rows.upkeep.totals()


def store_of(settings: Settings) -> Store | None:
    """The store that the settings ask for; None: none. Raises ConfigError."""
    url = (settings.store_url or "").strip()
    if url.lower() == "off":
        return None
    if url.lower() == "memory":
        url = "sqlite://"
    if not url:
        url = f"sqlite:///{_state_dir(settings.state_dir) / FILE}"
    if not url.startswith(("sqlite:", "sqlite+", "postgres")):
        raise ConfigError(
            "STORE_URL: must be sqlite:///PATH, postgresql://USER:PASSWORD@HOST/NAME, memory or off"
        )
    return Store(
        url,
        most_responses=settings.store_max_responses,
        most_bytes=settings.store_max_bytes,
        most_response_bytes=settings.store_max_response_bytes,
        ttl_s=settings.store_ttl_s,
    )


def _state_dir(name: str) -> Path:
    folder = Path(name).expanduser()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
        reason = "it is not writable"
    except OSError as error:
        reason = error.strerror or str(error)
    fallback = Path(tempfile.gettempdir())
    log.warning("responses are kept as long as this server lives", STATE_DIR=name, reason=reason)
    return fallback


def _in_short(error: BaseException) -> str:
    """Without the statement and its values, which are what clients have sent."""
    cause = getattr(error, "orig", None) or error
    first = (str(cause).splitlines() or [""])[0]
    return f"{type(cause).__name__}: {first}"[:200]
