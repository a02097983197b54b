"""The line between the supervisor and the server: JSON lines over a socket pair.

    server     ──> {"phase": "ready"}            every phase that it enters
    supervisor ──> {"state": "registered", ...}  every change of the network's state

Either end learns of the other's death by the end of the stream.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress

import msgspec

from app.endpoint import Network, NetworkState
from app.logs.setup import log


class PhaseChanged(msgspec.Struct, frozen=True):
    """What the server says."""

    phase: str


class ServerEnd:
    """The serving process's end. `network` is what the supervisor said last."""

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)  # the engine's processes would keep it open
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self._writer: asyncio.StreamWriter | None = None
        self._listening: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self.listeners: list[Callable[[Network], None]] = []
        self.network = Network(NetworkState.WAITING)

    async def open(self, *, lost: Callable[[], None]) -> None:
        """Listen; `lost` is called once the supervisor is gone."""
        reader, self._writer = await asyncio.open_unix_connection(sock=self._socket)
        self._listening = asyncio.create_task(self._listen(reader, lost), name="supervisor")

    def tell(self, phase: str) -> None:
        """Never blocks; nobody listening is no error, `lost` has been called then."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(msgspec.json.encode(PhaseChanged(phase)) + b"\n")

    async def left(self, within_s: float) -> bool:
        """Wait until no endpoint leads here; False if that took longer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self.network.attached:
                    self._changed.clear()
                    await self._changed.wait()
        return not self.network.attached

    async def _listen(self, reader: asyncio.StreamReader, lost: Callable[[], None]) -> None:
        with suppress(ConnectionError):
            while line := await reader.readline():
                self._note(msgspec.json.decode(line, type=Network))
        # Nobody is left who could attach or detach anything.
        self._note(
            msgspec.structs.replace(
                self.network, state=NetworkState.FAILED, error="the supervisor is gone"
            )
        )
        log.error("the supervisor is gone")
        lost()

    def _note(self, network: Network) -> None:
        self.network = network
        self._changed.set()
        for listener in self.listeners:
            listener(network)


async def supervise(end: socket.socket, heard: Callable[[str], None]) -> Callable[[Network], None]:
    """The supervisor's end: calls `heard` with each phase; returns what tells the server."""
    end.setblocking(False)
    reader, writer = await asyncio.open_unix_connection(sock=end)

    async def listen() -> None:
        with suppress(ConnectionError):
            while line := await reader.readline():
                heard(msgspec.json.decode(line, type=PhaseChanged).phase)

    listening = asyncio.create_task(listen(), name="server")

    def tell(network: Network) -> None:
        if not writer.is_closing() and not listening.done():
            writer.write(msgspec.json.encode(network) + b"\n")

    return tell
