"""Groups the pieces of a stream into yields.

Each yield is a POST to RunPod's control plane. A stream therefore begins with small yields, so that
its first words arrive soon, and continues with larger ones: 1, 3, 9, 27, 50, 50, ... by default, as
in worker-vllm. Unlike there, no piece waits longer than a second for the others of its batch, so a
slow model still streams, and no yield exceeds the platform's limit.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import msgspec

PATIENCE_S = 1.0
MAX_YIELD_BYTES = 900_000
"""RunPod's limit for one piece of a stream is 1 MB, JSON included."""

Piece = TypeVar("Piece")


class Growth(msgspec.Struct, frozen=True):
    """Pieces of the first yield, factor from one yield to the next, most pieces of a yield."""

    first: int
    factor: float
    most: int

    def sizes(self) -> Iterator[int]:
        if self.factor <= 1 or self.first >= self.most:
            while True:
                yield self.most
        size = float(self.first)
        while True:
            yield math.ceil(size)
            size = min(size * self.factor, self.most)


class Batches(Generic[Piece]):
    """Collects pieces and delivers them in batches; the caller flushes at the end."""

    def __init__(
        self,
        growth: Growth,
        deliver: Callable[[list[Piece]], None],
        *,
        patience_s: float = PATIENCE_S,
        max_bytes: int = MAX_YIELD_BYTES,
    ) -> None:
        self._sizes = growth.sizes()
        self._size = next(self._sizes)
        self._deliver = deliver
        self._patience_s = patience_s
        self._max_bytes = max_bytes
        self._pending: list[Piece] = []
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, piece: Piece, size_bytes: int) -> None:
        if self._bytes + size_bytes > self._max_bytes:
            self.flush()
        self._pending.append(piece)
        self._bytes += size_bytes
        if len(self._pending) >= self._size:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._patience_s, self.flush)

    def flush(self) -> None:
        """Deliver the pending pieces, if there are any."""
        self.cancel_timer()
        if not self._pending:
            return
        batch, self._pending, self._bytes = self._pending, [], 0
        self._size = next(self._sizes)
        self._deliver(batch)

    def cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
