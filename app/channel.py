"""How two processes of one server talk: JSON lines over a socket pair, typed at both ends.

Either end learns of the other's death by the end of the stream.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

import msgspec

Sent = TypeVar("Sent")
Received = TypeVar("Received")


class Channel(Generic[Sent, Received]):
    """One end. Everything belongs to the event loop that opened it."""

    def __init__(
        self,
        end: socket.socket,
        decoder: msgspec.json.Decoder[Received],
        *,
        on_message: Callable[[Received], None],
        on_closed: Callable[[], None],
    ) -> None:
        """`on_closed` is called once, when the other end is gone."""
        self._end = end
        self._decoder = decoder
        self._on_message, self._on_closed = on_message, on_closed
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self._end.setblocking(False)
        reader, self._writer = await asyncio.open_unix_connection(sock=self._end)
        self._reading = asyncio.create_task(self._read(reader), name="channel")

    def send(self, message: Sent) -> None:
        """Never blocks. No effect once the other end is gone: `on_closed` says so."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(msgspec.json.encode(message) + b"\n")

    async def close(self) -> None:
        """Hang up. `on_closed` is not called."""
        if self._writer is not None and self._reading is not None:
            self._reading.cancel()
            self._writer.close()
            await asyncio.gather(self._reading, self._writer.wait_closed(), return_exceptions=True)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while line := await reader.readline():
                self._on_message(self._decoder.decode(line))
        if self._writer is not None:
            self._writer.close()
        self._on_closed()
