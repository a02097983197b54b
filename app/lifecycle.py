"""Where the server is in its life, who is inside, and whether a load balancer leads here.

    starting ──> loading ──> warming ──> ready ──> leaving ──> draining ──> stopped
        └──────────┴────────────┴──────────┴──────────┴───────────┴──> dead | failed

`Gate` is the admission to the server. A request holds its `Ticket` from before its body is read
until its last byte is written. The ticket is also the handle by which a request is ended from
outside: by its client leaving, by the engine's death, by the end of a drain.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from enum import StrEnum
from types import TracebackType
from typing import Self

import msgspec

from app.errors import (
    Draining,
    EngineDied,
    NotReady,
    Overloaded,
    RequestAborted,
    ServeError,
)  # fmt: skip


class Phase(StrEnum):
    STARTING = "starting"
    """The process is up; SGLang is being imported."""
    LOADING = "loading"
    """The engine's processes load the model."""
    WARMING = "warming"
    """The first token is being generated."""
    FOLLOWING = "following"
    """A part of the model is loaded here; node 0 serves it."""
    READY = "ready"
    LEAVING = "leaving"
    """Not ready any more for those who ask; whoever still comes is served, until the load balancer
    knows."""
    DRAINING = "draining"
    """No new requests; those inside may finish."""
    STOPPED = "stopped"
    FAILED = "failed"
    """The start did not succeed."""
    DEAD = "dead"
    """The engine was lost."""


_RISING = (Phase.STARTING, Phase.LOADING, Phase.WARMING, Phase.FOLLOWING, Phase.READY)
_ENDED = (Phase.STOPPED, Phase.FAILED, Phase.DEAD)


class Lifecycle:
    """The phase, and since when."""

    def __init__(self) -> None:
        self.phase = Phase.STARTING
        self.reason: str | None = None
        """Why the server failed or died: one line."""
        self.started_at = time.monotonic()
        self.over = asyncio.Event()
        """Set with the last phase: stopped, failed or dead."""
        self.listeners: list[Callable[[Phase], None]] = []

    @property
    def uptime_s(self) -> float:
        return time.monotonic() - self.started_at

    @property
    def ended(self) -> bool:
        return self.phase in _ENDED

    def enter(self, phase: Phase, reason: str | None = None) -> bool:
        """Move on; False if that would be a step back (a late `ready` while draining)."""
        if self.ended or phase is self.phase:
            return False
        if phase in _RISING and (
            self.phase not in _RISING or _RISING.index(phase) < _RISING.index(self.phase)
        ):
            return False
        if phase is Phase.LEAVING and self.phase is Phase.DRAINING:
            return False
        self.phase, self.reason = phase, reason
        if self.ended:
            self.over.set()
        for listener in self.listeners:
            listener(phase)
        return True

    def refusal(self) -> ServeError | None:
        """Why a request cannot be taken now; None if it can."""
        match self.phase:
            case Phase.READY | Phase.LEAVING:
                return None
            case Phase.STARTING | Phase.LOADING | Phase.WARMING:
                return NotReady(f"The model is not ready yet (phase: {self.phase}).")
            case Phase.FOLLOWING:
                return NotReady("A part of the model is loaded here; node 0 serves it.")
            case Phase.DEAD | Phase.FAILED:
                return EngineDied("The engine has ended; this server is going away.")
            case _:
                return Draining("This server is shutting down.")


class NetworkState(StrEnum):
    DISABLED = "disabled"
    """Networking is not configured."""
    WAITING = "waiting"
    """For the server to have generated a token."""
    REGISTERING = "registering"
    REGISTERED = "registered"
    FAILED = "failed"
    """The registration failed; it is tried again, after a minute at most."""
    LEAVING = "leaving"
    LEFT = "left"


class Network(msgspec.Struct, frozen=True, omit_defaults=True):
    """The endpoint, as /health shows it."""

    state: NetworkState
    project: str | None = None
    group: str | None = None
    scope: str | None = None
    location: str | None = None
    """Zone of a zonal group, region of a regional one."""
    endpoint: str | None = None
    failures: int = 0
    """Registrations and removals that failed, since the start."""
    error: str | None = None

    @property
    def attached(self) -> bool:
        """Traffic may be arriving through the load balancer."""
        return self.state in (
            NetworkState.REGISTERING, NetworkState.REGISTERED, NetworkState.LEAVING,
        )  # fmt: skip


NO_NETWORK = Network(NetworkState.DISABLED)


class Ticket:
    """One request's place in the server; an async context manager entered by its task."""

    def __init__(self, gate: Gate, names: tuple[str, ...]) -> None:
        self.names = names
        self._gate = gate
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._error: ServeError | None = None

    def end(self, error: ServeError) -> None:
        """Make the request's task raise `error` out of this context. Only the first call counts.

        Like `asyncio.timeout`: the task is cancelled, and the cancellation becomes `error` on the
        way out.
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
        self._gate.leave(self)
        if self._error is not None and task is not None:
            ours = task.uncancel() <= self._cancelling
            ended, self._error = self._error, None
            if ours and kind is asyncio.CancelledError:
                try:
                    raise ended from None
                finally:
                    del ended  # its traceback leads here: only a collection would find it


class Gate:
    """Bounds the requests inside: `running` at most in the engine, `waiting` more in the server."""

    def __init__(self, lifecycle: Lifecycle, *, max_running: int, max_waiting: int) -> None:
        self._lifecycle = lifecycle
        self._limit = max_running + max_waiting
        self._tickets: set[Ticket] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.turn = asyncio.Semaphore(max_running)
        """Held while a request is in the engine."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when somebody has come in or gone."""

    @property
    def in_flight(self) -> int:
        return len(self._tickets)

    @property
    def full(self) -> bool:
        return len(self._tickets) >= self._limit

    def admit(self, *names: str) -> Ticket:
        """A place inside, taken at once; `names` are what `end` finds it by.

        Raises NotReady, Draining, EngineDied or Overloaded; nothing of the request has been read.
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

    def leave(self, ticket: Ticket) -> None:
        self._tickets.discard(ticket)
        if not self._tickets:
            self._idle.set()
        self.on_change()

    def end(self, name: str, error: Callable[[], ServeError]) -> int:
        """End the requests of this name; returns how many there were. A client's name for its
        requests need not be unique."""
        return self._end([each for each in self._tickets if name in each.names], error)

    def abort(self, name: str | None) -> int:
        """End the requests of this name, or all, by the operator's word; returns how many."""

        def aborted() -> ServeError:
            return RequestAborted("The operator of this server has ended this request.")

        return self.end_all(aborted) if name is None else self.end(name, aborted)

    def end_all(self, error: Callable[[], ServeError]) -> int:
        """End every request inside; returns how many there were."""
        return self._end(list(self._tickets), error)

    def _end(self, tickets: list[Ticket], error: Callable[[], ServeError]) -> int:
        for ticket in tickets:
            ticket.end(error())
        return len(tickets)

    async def wait_idle(self, timeout_s: float) -> bool:
        """Wait until nobody is inside; False if that took longer than `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True
