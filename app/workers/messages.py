"""The line between the parent and each serving process: JSON lines over a socket pair.

    parent ──> Entered     every phase of the server; Endpoint, when the network's state changes
           ──> Abort       end these requests; answered with Aborted
           ──> Stop        everybody is out, everywhere
    child  ──> Warm        it has generated a token
           ──> Ended       it cannot go on, and so the server cannot
           ──> Abort       end these requests in the others; answered with Aborted
           ──> Empty       nobody is inside any more

Either end learns of the other's death by the end of the stream.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

import msgspec

from app.endpoint import Network
from app.lifecycle import Phase


class Entered(msgspec.Struct, frozen=True, tag=True):
    phase: Phase
    reason: str | None
    started_at: float
    """The server's start, and when it was asked to end, by the monotonic clock."""
    asked_at: float


class Endpoint(msgspec.Struct, frozen=True, tag=True):
    network: Network


class Abort(msgspec.Struct, frozen=True, tag=True):
    no: int
    """Of the question, for its answer."""
    name: str | None


class Aborted(msgspec.Struct, frozen=True, tag=True):
    no: int
    count: int


class Stop(msgspec.Struct, frozen=True, tag=True):
    pass


class Warm(msgspec.Struct, frozen=True, tag=True):
    pass


class Ended(msgspec.Struct, frozen=True, tag=True):
    phase: Phase
    """Failed or dead."""
    reason: str | None


class Empty(msgspec.Struct, frozen=True, tag=True):
    pass


Message: TypeAlias = Entered | Endpoint | Abort | Aborted | Stop | Warm | Ended | Empty
_DECODER: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


class Line:
    """One end. `heard` is called with each message, `lost` once the other end is gone."""

    def __init__(
        self, end: socket.socket, heard: Callable[[Message], None], lost: Callable[[], None]
    ) -> None:
        self._end = end
        self._heard, self._lost = heard, lost
        self._writer: asyncio.StreamWriter | None = None
        self._listening: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self._end.setblocking(False)
        reader, self._writer = await asyncio.open_unix_connection(sock=self._end)
        self._listening = asyncio.create_task(self._listen(reader), name="line")

    def tell(self, message: Message) -> None:
        """Never blocks; nobody listening is no error, `lost` is called then."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(msgspec.json.encode(message) + b"\n")

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while line := await reader.readline():
                self._heard(_DECODER.decode(line))
        self._lost()
