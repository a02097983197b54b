"""The messages between the parent and each serving process, over a `Channel`.

parent ──> Entered     the server has entered this phase
       ──> Endpoint    the network's state has changed
       ──> Abort       end these requests; answered with Aborted
       ──> Stop        no process has a request in flight any more
child  ──> Warm        it has generated a token
       ──> Ended       it failed or lost the engine, so the server must end
       ──> Abort       end these requests in the other processes; answered with Aborted
       ──> Drained     it has no request in flight any more
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from app.endpoint import Network
from app.lifecycle import Phase


class Entered(msgspec.Struct, frozen=True, tag=True):
    phase: Phase
    reason: str | None
    started_at: float
    """The server's start, by the monotonic clock."""
    drain_requested_at: float
    """When the drain was requested, by the same clock; 0 before."""


class Endpoint(msgspec.Struct, frozen=True, tag=True):
    network: Network


class Abort(msgspec.Struct, frozen=True, tag=True):
    no: int
    """Chosen by the sender; `Aborted` repeats it."""
    name: str | None
    """None: all requests."""


class Aborted(msgspec.Struct, frozen=True, tag=True):
    no: int
    count: int


class Stop(msgspec.Struct, frozen=True, tag=True):
    pass


class Warm(msgspec.Struct, frozen=True, tag=True):
    context_length: int | None
    """Tokens that the model takes."""


class Ended(msgspec.Struct, frozen=True, tag=True):
    phase: Phase
    """Failed, dead or hung."""
    reason: str | None


class Drained(msgspec.Struct, frozen=True, tag=True):
    pass


FromParent: TypeAlias = Entered | Endpoint | Abort | Aborted | Stop
FromChild: TypeAlias = Warm | Ended | Abort | Aborted | Drained
FROM_PARENT: msgspec.json.Decoder[FromParent] = msgspec.json.Decoder(FromParent)
FROM_CHILD: msgspec.json.Decoder[FromChild] = msgspec.json.Decoder(FromChild)
