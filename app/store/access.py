"""Calls of a database that may fail, be full or be far away.

A call runs in a task of its own: a client that leaves cancels the wait, and not a transaction in
the middle. It ends within seconds for its caller, and then others are not tried for a while.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

from app import metrics
from app.errors import StoreUnavailable
from app.logs.setup import log
from app.store.records import InConversation, LinkGone, NoRoom, NotAnswered, TooLong


class Statements(Protocol):
    """On one database."""

    async def create(self) -> None:
        """Make what is not there."""

    async def close(self) -> None: ...


T = TypeVar("T")
R = TypeVar("R", bound=Statements)
_CALL_S = 8.0
"""That a call may take: longer than SQLite waits for another process's write."""
_SETTLE_S = 2.0
"""At the end of the server, for calls whose callers have left."""
_REST_S = 5.0
"""After a call that took too long, others are not tried: an answer would wait for each."""
_RETRY_S = (1.0, 30.0)
"""Between attempts to open the database: the first and the longest."""
_COMPLAIN_S = 60.0
_ANSWERS = (TooLong, NotAnswered, InConversation, LinkGone, NoRoom)
"""Errors that are no failures of the database."""


class Access(Generic[R]):
    """One database, opened once it is there."""

    def __init__(
        self,
        url: str,
        *,
        module: str = "app.store.rows",
        name: str = "the store of responses",
        failures: Any = metrics.STORE_FAILURES,
    ) -> None:
        """`module`: has the class of the statements, `Rows`. `name`: for the log and clients.
        `failures`: the metric that counts them, by call."""
        self._url, self._module, self._name = url, module, name
        self._failures = failures
        self._rows: R | None = None
        self._tried, self._opened = asyncio.Event(), asyncio.Event()
        self._calls: set[asyncio.Future[Any]] = set()
        self._complained_at = -_COMPLAIN_S
        self._resting_until = 0.0
        self._where = ""
        """The database, without the password."""

    async def open(self) -> R:
        """Returns once it is there."""
        wait_s, longest_s = _RETRY_S
        while True:
            rows: R | None = None
            try:
                # SQLAlchemy takes half a second, which nothing at the start should wait for.
                module = await asyncio.to_thread(importlib.import_module, self._module)
                self._where = module.where(self._url)
                opened: R = module.Rows(self._url)
                rows = opened
                await _within(opened.create())
            except Exception as error:  # whatever it is, the server serves without a store
                if rows is not None:
                    with suppress(Exception):
                        await _within(rows.close())
                self.failed("open", in_short(error))
            else:
                self._rows = opened
                self._opened.set()
                log.info(f"{self._name} is open", database=self._where)
                return opened
            finally:
                self._tried.set()
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, longest_s)

    async def tried(self) -> None:
        """Returns once the first attempt to open it has ended, well or not."""
        await self._tried.wait()

    async def opened(self) -> R:
        await self._opened.wait()
        assert self._rows is not None
        return self._rows

    async def close(self) -> None:
        if self._rows is not None:
            with suppress(TimeoutError):
                await _within(self._rows.close())

    async def settled(self) -> None:
        """Wait a moment for calls whose callers have left."""
        if self._calls:
            await asyncio.wait(self._calls, timeout=_SETTLE_S)

    async def call(self, what: str, use: Callable[[R], Awaitable[T]]) -> T:
        """Use the database. What fails in it becomes StoreUnavailable.

        In a task of its own: a client that leaves cancels the wait and not the transaction.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_CALL_S):
                await self._tried.wait()
        if self._rows is None:
            raise self.failed(what, "it is not open")
        if time.monotonic() < self._resting_until:
            raise self.failed(what, "it was too slow a moment ago")
        task = asyncio.ensure_future(use(self._rows))
        self._calls.add(task)
        task.add_done_callback(self._end)
        await asyncio.wait({task}, timeout=_CALL_S)
        if not task.done():
            self._resting_until = time.monotonic() + _REST_S
            raise self.failed(what, f"it takes over {_CALL_S:g} s")
        error = task.exception()
        if error is None or isinstance(error, _ANSWERS):
            return task.result()
        raise self.failed(what, in_short(error)) from None

    def _end(self, task: asyncio.Future[Any]) -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may have left

    def failed(self, what: str, why: str) -> StoreUnavailable:
        self._failures.labels(what).inc()
        now = time.monotonic()
        if now - self._complained_at >= _COMPLAIN_S:
            self._complained_at = now
            log.error(f"{self._name} fails", call=what, reason=why, database=self._where)
        return StoreUnavailable(
            f"{self._name[0].upper()}{self._name[1:]} is not available; please try again."
        )


def in_short(error: BaseException) -> str:
    """Without the statement and its values, which are what clients have sent."""
    cause = getattr(error, "orig", None) or error
    first = (str(cause).splitlines() or [""])[0]
    return f"{type(cause).__name__}: {first}"[:200]


async def _within(work: Coroutine[Any, Any, None]) -> None:
    """Raises TimeoutError. To cancel SQLite's waits for the thread that works on it, so that it is
    left to itself: the disk may hang."""
    task = asyncio.ensure_future(work)
    await asyncio.wait({task}, timeout=_CALL_S)
    if not task.done():
        task.add_done_callback(lambda each: each.cancelled() or each.exception())
        raise TimeoutError("the database does not answer")
    task.result()
