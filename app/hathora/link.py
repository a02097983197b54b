"""What the supervisor and the server tell each other, over a `Channel`.

server     ──> PhaseChanged     every phase that the server enters
supervisor ──> Network          every change of the network endpoint's state
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import msgspec

from app.channel import Channel
from app.endpoint import Network, NetworkState
from app.lifecycle import Phase
from app.logs.setup import log
from app.processes import inherited_socket


class PhaseChanged(msgspec.Struct, frozen=True):
    phase: Phase


TO_SUPERVISOR = msgspec.json.Decoder(PhaseChanged)
_TO_SERVER = msgspec.json.Decoder(Network)


class ServerLink:
    """The server's end. `network` is the endpoint's state as the supervisor last told it."""

    def __init__(self, fd: int) -> None:
        """`fd`: of the socket that the supervisor passed on."""
        self._channel: Channel[PhaseChanged, Network] = Channel(
            inherited_socket(fd),
            _TO_SERVER,
            on_message=self._note,
            on_closed=self._supervisor_gone,
        )
        self._changed = asyncio.Event()
        self._on_lost: Callable[[], None] = lambda: None
        self.listeners: list[Callable[[Network], None]] = []
        self.network = Network(NetworkState.WAITING)

    async def open(self, *, on_lost: Callable[[], None]) -> None:
        """Listen; `on_lost` is called once the supervisor is gone."""
        self._on_lost = on_lost
        await self._channel.open()

    def tell(self, phase: Phase) -> None:
        self._channel.send(PhaseChanged(phase))

    async def left(self, within_s: float) -> bool:
        """Wait until no endpoint leads here; False if that took longer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self.network.attached:
                    self._changed.clear()
                    await self._changed.wait()
        return not self.network.attached

    def _note(self, network: Network) -> None:
        self.network = network
        self._changed.set()
        for listener in self.listeners:
            listener(network)

    def _supervisor_gone(self) -> None:
        # Without it nothing can attach or detach the endpoint any more.
        self._note(
            msgspec.structs.replace(
                self.network, state=NetworkState.FAILED, error="the supervisor is gone"
            )
        )
        log.error("the supervisor is gone")
        self._on_lost()
