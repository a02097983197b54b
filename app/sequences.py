"""The engine's room, in sequences: who may put how many of them into it, and when.

A request has a sequence for each choice of each prompt: one completion of 64 prompts and 8 choices
is 512. They enter the engine prompt by prompt, and a prompt's choices in parts if they are more
than a request's share. If there is no room, the request that has the fewest
in the engine is next: a client's single question never waits for the rest of another's batch.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType


class Sequences:
    """Room for `capacity` sequences, of which one request has at most `share` at a time."""

    def __init__(self, capacity: int, share: int | None = None) -> None:
        self.capacity = capacity
        self.share = min(capacity, share or max(1, capacity // 4))
        self.free = capacity
        self._kept = 0
        """Room that `close` has withdrawn."""
        self.waiting: dict[int, dict[Share, None]] = {}
        """Requests with a prompt that waits, by the number that they have in the engine; those with
        the same number in the order in which they came to have it."""

    @property
    def held(self) -> int:
        """In the engine."""
        return self.capacity - self._kept - self.free

    @property
    def waiting_requests(self) -> int:
        """Requests that wait for room and have nothing in the engine."""
        return len(self.waiting.get(0, ()))

    def close(self) -> None:
        """Admit no sequence until `open`; those in the engine go on."""
        self._kept += self.capacity
        self.free -= self.capacity

    def open(self) -> None:
        self._kept -= self.capacity
        self.free += self.capacity
        self._grant()

    def of_one_request(self) -> Share:
        return Share(self)

    def enter(self, share: Share, count: int) -> asyncio.Future[None] | None:
        """Take room for so many; if there is none, returns what to wait for."""
        if not self.waiting and share.may_have(count) and count <= self.free:
            self._move(share, count)
            return None
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        share.waiters.append((count, waiter))
        if len(share.waiters) == 1:
            self._enlist(share)
        self._grant()
        return waiter

    def leave(self, share: Share, count: int) -> None:
        self._move(share, -count)
        self._grant()

    def _move(self, share: Share, count: int) -> None:
        self._unlist(share)
        self.free -= count
        share.held += count
        self._enlist(share)

    def _enlist(self, share: Share) -> None:
        while share.waiters and share.waiters[0][1].done():  # cancelled
            share.waiters.popleft()
        if share.waiters and share.may_have(share.waiters[0][0]):
            self.waiting.setdefault(share.held, {})[share] = None

    def _unlist(self, share: Share) -> None:
        if (same := self.waiting.get(share.held)) is not None and share in same:
            del same[share]
            if not same:
                del self.waiting[share.held]

    def _grant(self) -> None:
        while self.waiting:
            share = next(iter(self.waiting[min(self.waiting)]))
            count, waiter = share.waiters[0]
            if waiter.done():
                self._move(share, 0)
            elif count <= self.free:
                share.waiters.popleft()
                self._move(share, count)
                waiter.set_result(None)
            else:
                return


class Share:
    """What one request has in the engine."""

    __slots__ = ("_sequences", "held", "waiters")

    def __init__(self, sequences: Sequences) -> None:
        self._sequences = sequences
        self.held = 0
        self.waiters: deque[tuple[int, asyncio.Future[None]]] = deque()

    def may_have(self, count: int) -> bool:
        return self.held + count <= self._sequences.share

    def room(self, count: int) -> Room:
        """Room for so many sequences, at most `Sequences.share`, while its context is entered."""
        assert count <= self._sequences.share  # more would wait forever
        return Room(self._sequences, self, count)


class Room:
    """An async context manager: room in the engine for one prompt's sequences."""

    __slots__ = ("_count", "_sequences", "_share")

    def __init__(self, sequences: Sequences, share: Share, count: int) -> None:
        self._sequences, self._share, self._count = sequences, share, count

    async def __aenter__(self) -> None:
        sequences, share, count = self._sequences, self._share, self._count
        if not sequences.waiting and not share.held and count <= sequences.free:
            sequences.free -= count  # as `enter`, without a call: nearly always
            share.held = count
            return
        waiter = sequences.enter(share, count)
        if waiter is None:
            return
        try:
            await waiter
        except asyncio.CancelledError:
            # Granted just now; or not, and another of its prompts may be next.
            sequences.leave(share, 0 if waiter.cancelled() else count)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        sequences, share = self._sequences, self._share
        if sequences.waiting or share.waiters:
            sequences.leave(share, self._count)
        else:  # as `leave`
            sequences.free += self._count
            share.held -= self._count
