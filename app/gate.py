"""Admission: how many requests are in flight, and how one is ended from outside.

A request holds its `Ticket` from before its body is read until its last byte is written. The ticket
is also the handle that ends a request from outside: when its client disconnects, the engine dies,
a drain times out or the operator aborts it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from app.errors import Overloaded, RequestAborted, ServeError
from app.lifecycle import Lifecycle


class Ticket:
    """One request's place in the server; an async context manager entered by its task."""

    def __init__(self, gate: Gate, names: tuple[str, ...]) -> None:
        self.names = names
        self._gate = gate
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._error: ServeError | None = None

    def end(self, error: ServeError) -> None:
        """Make the request's task raise `error` from this context. Only the first call counts.

        Like `asyncio.timeout`: the task is cancelled, and the cancellation becomes `error` when the
        context exits.
        """
        if self._error is None and self._task is not None:
            self._error = error
            self._task.cancel()

    async def __aenter__(self) -> Self:
        self._task = asyncio.current_task()
        assert self._task is not None
        self._cancelling = self._task.cancelling()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        self._gate.release(self)
        if self._error is not None and task is not None:
            ours = task.uncancel() <= self._cancelling
            ended, self._error = self._error, None
            if ours and kind is asyncio.CancelledError:
                try:
                    raise ended from None
                finally:
                    # Its traceback refers to this frame: break the cycle, so that both are freed
                    # without a GC pass.
                    del ended


class Gate:
    """Bounds the in-flight requests: `max_running` in the engine, `max_waiting` more queued."""

    def __init__(self, lifecycle: Lifecycle, *, max_running: int, max_waiting: int) -> None:
        self._lifecycle = lifecycle
        self._limit = max_running + max_waiting
        self._tickets: set[Ticket] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.turn = asyncio.Semaphore(max_running)
        """A request holds it while it is in the engine."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when a request was admitted or has ended."""

    @property
    def in_flight(self) -> int:
        return len(self._tickets)

    @property
    def full(self) -> bool:
        return len(self._tickets) >= self._limit

    def admit(self, *names: str) -> Ticket:
        """Admit or refuse a request without waiting; `end` finds it by its `names`.

        Raises NotReady, Draining, EngineDied or Overloaded. Does not need the request's body.
        """
        if (refusal := self._lifecycle.refusal()) is not None:
            raise refusal
        if self.full:
            raise Overloaded(
                f"All {self._limit} places of this server (MAX_CONCURRENCY + MAX_QUEUE) are taken."
            )
        ticket = Ticket(self, names)
        self._tickets.add(ticket)
        self._idle.clear()
        self.on_change()
        return ticket

    def release(self, ticket: Ticket) -> None:
        self._tickets.discard(ticket)
        if not self._tickets:
            self._idle.set()
        self.on_change()

    def end(self, name: str, error: Callable[[], ServeError]) -> int:
        """End the requests of this name; returns how many. Ids that clients choose need not be
        unique."""
        return self._end([ticket for ticket in self._tickets if name in ticket.names], error)

    def abort(self, name: str | None) -> int:
        """End the requests of this name, or all if None, for the operator; returns how many."""

        def aborted() -> ServeError:
            return RequestAborted("The operator of this server has ended this request.")

        return self.end_all(aborted) if name is None else self.end(name, aborted)

    def end_all(self, error: Callable[[], ServeError]) -> int:
        """End every in-flight request; returns how many."""
        return self._end(list(self._tickets), error)

    def _end(self, tickets: list[Ticket], error: Callable[[], ServeError]) -> int:
        for ticket in tickets:
            ticket.end(error())
        return len(tickets)

    async def wait_idle(self) -> None:
        """Wait until no request is in flight."""
        await self._idle.wait()
