"""Admission: how many requests are in flight, and how one is ended from outside.

    admit ── body arrives ── arrive ── in flight ── last byte written
      │ 503, body unread       │ 503

A request holds its `Ticket` from before its body is read until its last byte is written, and a
place from when the body is complete: clients that send slowly take no places of the others.
The ticket is also the handle that ends a request from outside: when its client disconnects, the
engine dies, a drain times out or the operator aborts it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import TracebackType
from typing import Self

from app.awake import Timer
from app.errors import Overloaded, RequestAborted, RequestTimedOut, ServeError
from app.lifecycle import Lifecycle
from app.sequences import Sequences


class Ticket:
    """One request in the server; an async context manager entered by its task."""

    def __init__(self, gate: Gate, names: tuple[str, ...]) -> None:
        self.names = names
        self.in_flight = False
        """It has a place: its body is complete."""
        self.size_bytes = 0
        """Of its complete body."""
        self._gate = gate
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._error: ServeError | None = None
        self.timer: Timer | None = None

    def grow(self, size_bytes: int) -> None:
        """Count bytes of the body that have arrived. May end a request, this one included."""
        self._gate.arrivals.grow(self, size_bytes)

    def arrive(self) -> None:
        """Take a place: the body is complete. Raises Overloaded."""
        self._gate.place(self)

    def take_on(self, size_bytes: int) -> None:
        """Count bytes that were fetched for it beside its body. Raises Overloaded."""
        self._gate.add_bytes(self, size_bytes)

    def hand_over(self, *names: str) -> Ticket:
        """One that has its place from now on, for work that goes on without the client. This one is
        still waited for, and the bytes of its body are counted: its client has an answer to read.
        What ends requests from outside ends the other one."""
        return self._gate.hand_over(self, names)

    def end(self, error: ServeError) -> None:
        """Make the request's task raise `error` from this context. Only the first call counts.

        Like `asyncio.timeout`: the task is cancelled, and the cancellation becomes `error` when the
        context exits.
        """
        if self._error is None:
            self._error = error
            if self._task is not None:  # else its task has not begun, and is cancelled when it does
                self._task.cancel()

    def limit(self, seconds: float) -> None:
        """End the request when so many seconds have passed."""
        message = f"The request took longer than {seconds:g} s (REQUEST_TIMEOUT)."
        self.timer = Timer(seconds, lambda: self.end(RequestTimedOut(message)))

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.current_task()
        assert self._task is not None
        self._cancelling = self._task.cancelling()
        if self._error is not None:
            self._task.cancel()
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


class Arrivals:
    """The requests whose bodies are arriving, bounded in number and in bytes.

    Past the number the one that has been arriving longest is ended: a client that sends its body as
    it should is done long before. Past the bytes the largest is.
    """

    def __init__(self, *, max_requests: int, max_bytes: int) -> None:
        self._max_requests, self._max_bytes = max_requests, max_bytes
        self._sizes: dict[Ticket, int] = {}
        """Bytes so far of each, the longest arriving first."""
        self.total_bytes = 0

    def __len__(self) -> int:
        return len(self._sizes)

    def size(self, ticket: Ticket) -> int:
        """Bytes so far."""
        return self._sizes.get(ticket, 0)

    def add(self, ticket: Ticket) -> None:
        self._sizes[ticket] = 0
        if len(self._sizes) > self._max_requests:
            self._end(
                next(iter(self._sizes)),
                f"More than {self._max_requests} bodies (MAX_ARRIVING_BODIES) are arriving; this "
                "one has been arriving longest.",
            )

    def grow(self, ticket: Ticket, size_bytes: int) -> None:
        if ticket in self._sizes:
            self._sizes[ticket] += size_bytes
            self.total_bytes += size_bytes
            while self.total_bytes > self._max_bytes:
                self._end(
                    max(self._sizes, key=self._sizes.__getitem__),
                    f"More than {self._max_bytes} bytes of bodies (MAX_ARRIVING_BYTES) are "
                    "arriving; this one is the largest.",
                )

    def remove(self, ticket: Ticket) -> int:
        """Returns the bytes that it has had."""
        size = self._sizes.pop(ticket, 0)
        self.total_bytes -= size
        return size

    def _end(self, ticket: Ticket, message: str) -> None:
        self.remove(ticket)
        ticket.end(Overloaded(message))


class Gate:
    """Bounds the in-flight requests: `max_running` in the engine, `max_waiting` more queued.

    `max_running` and `max_share` count sequences: a request may have `max_share` in the engine.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        *,
        max_running: int,
        max_waiting: int,
        max_share: int | None = None,
        max_arriving: int = 4096,
        max_arriving_bytes: int = 2**28,
        max_bytes: int = 2**29,
        longest_s: float = 0.0,
    ) -> None:
        """`longest_s`: that a request may take from when its body is complete; 0: for ever."""
        self._lifecycle = lifecycle
        self._longest_s = longest_s
        self._limit = max_running + max_waiting
        self.arrivals = Arrivals(max_requests=max_arriving, max_bytes=max_arriving_bytes)
        self._max_bytes = max_bytes
        self._bytes = 0
        """Of the bodies of the requests in flight: of them prompts are made, nine times as large
        as lists of token ids. And of the answers without a place."""
        self._in_flight = 0
        self._tickets: set[Ticket] = set()
        self._without_place: set[Ticket] = set()
        """Those that have handed theirs over."""
        self._unfinished = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.sequences = Sequences(max_running, max_share)
        """A request holds its part while it is in the engine."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when a request has taken its place or given it back."""

    @property
    def in_flight(self) -> int:
        """Requests whose bodies are complete."""
        return self._in_flight

    @property
    def full(self) -> bool:
        return self._in_flight >= self._limit

    def admit(self, *names: str, passes_through: bool = False) -> Ticket:
        """Admit or refuse a request without waiting; `end` finds it by its `names`.

        Its body is still to come. `passes_through`: it is not kept in memory, and may take its
        time: it is no arrival, and never takes a place. Raises NotReady, Draining, EngineDied or
        Overloaded.
        """
        if (refusal := self._lifecycle.refusal()) is not None:
            raise refusal
        if self.full:
            raise self._overloaded()
        ticket = Ticket(self, names)
        self._tickets.add(ticket)
        self._idle.clear()
        if not passes_through:
            self.arrivals.add(ticket)
        return ticket

    def place(self, ticket: Ticket) -> None:
        """Take a place. Raises Overloaded, and Asleep; a drain lets requests in that it found
        arriving."""
        if self._lifecycle.refuses and (refusal := self._lifecycle.refusal()) is not None:
            raise refusal
        if self.full:
            raise self._overloaded()
        size = self.arrivals.size(ticket)
        if self._in_flight and self._bytes + size > self._max_bytes:
            raise self._too_many_bytes()
        ticket.size_bytes = self.arrivals.remove(ticket)
        ticket.in_flight = True
        self._bytes += ticket.size_bytes
        self._in_flight += 1
        if self._longest_s:
            ticket.limit(self._longest_s)
        self.on_change()

    def hand_over(self, ticket: Ticket, names: tuple[str, ...]) -> Ticket:
        heir = Ticket(self, names)
        heir.in_flight, ticket.in_flight = ticket.in_flight, False
        heir.size_bytes = ticket.size_bytes
        ticket.stop_timer()
        if self._longest_s:
            heir.limit(self._longest_s)
        self._bytes += heir.size_bytes
        self._tickets.discard(ticket)
        self._tickets.add(heir)
        self._without_place.add(ticket)
        return heir

    def add_bytes(self, ticket: Ticket, size_bytes: int) -> None:
        if self._in_flight > 1 and self._bytes + size_bytes > self._max_bytes:
            raise self._too_many_bytes()
        if ticket.in_flight:
            ticket.size_bytes += size_bytes
            self._bytes += size_bytes

    @contextmanager
    def unfinished(self) -> Iterator[None]:
        """Not idle while its context is entered: what a request has left to do after its end."""
        self._unfinished += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._unfinished -= 1
            self._note_idle()

    @contextmanager
    def carrying(self, size_bytes: int, *, waited_for: bool) -> Iterator[None]:
        """Count an answer that has no place while it is sent. `waited_for`: by a drain. Raises
        Overloaded."""
        if self._bytes and self._bytes + size_bytes > self._max_bytes:
            raise self._too_many_bytes()
        self._bytes += size_bytes
        try:
            with self.unfinished() if waited_for else nullcontext():
                yield
        finally:
            self._bytes -= size_bytes

    def _note_idle(self) -> None:
        if not self._tickets and not self._without_place and not self._unfinished:
            self._idle.set()

    def release(self, ticket: Ticket) -> None:
        if ticket.timer is not None:
            ticket.stop_timer()
        self._tickets.discard(ticket)
        self._without_place.discard(ticket)
        self._note_idle()
        self._bytes -= ticket.size_bytes
        if ticket.in_flight:
            self._in_flight -= 1
            self.on_change()
        else:
            self.arrivals.remove(ticket)

    def _too_many_bytes(self) -> Overloaded:
        return Overloaded(
            f"The requests in this server have {self._max_bytes} bytes together "
            "(MAX_REQUEST_BYTES); please try again."
        )

    def _overloaded(self) -> Overloaded:
        return Overloaded(
            f"All {self._limit} places of this server (MAX_CONCURRENCY + MAX_QUEUE) are taken."
        )

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
        """End every request, in flight or arriving; returns how many."""
        return self._end(list(self._tickets), error)

    def _end(self, tickets: list[Ticket], error: Callable[[], ServeError]) -> int:
        for ticket in tickets:
            ticket.end(error())
        return len(tickets)

    async def wait_idle(self) -> None:
        """Wait until no request is in flight or arriving."""
        await self._idle.wait()
