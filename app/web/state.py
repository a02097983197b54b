"""What the web layer shares: one `Serving` per application."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from starlette.requests import Request

from app.dialects.contract import Bounds
from app.endpoint import NO_NETWORK, Network
from app.engine.base import Engine
from app.errors import NotReady
from app.gate import Gate
from app.generation.model import ServedModel
from app.life.control import Peers
from app.life.host import ModelHost
from app.life.probe import Probe
from app.lifecycle import Lifecycle
from app.metrics import Metrics
from app.settings.catalogue import Settings
from app.stats import Gauges, LocalGauges, LoopLag


@dataclass(frozen=True)
class Serving:
    settings: Settings
    lifecycle: Lifecycle
    gate: Gate
    host: ModelHost
    lag: LoopLag
    metrics: Metrics | None
    network: Callable[[], Network] = lambda: NO_NETWORK
    """The endpoint that leads here, if there is one."""
    peers: Peers | None = None
    """The server's other processes, if there are any."""

    def gauges(self) -> Gauges:
        """Of the whole server."""
        counted = self.peers or LocalGauges(self.gate, self.lag, self.host.silent_s)
        return counted.gauges()

    async def abort(self, name: str | None) -> int:
        """End the server's requests of this name, or all; returns how many there were."""
        ended = self.gate.abort(name)
        if self.peers is not None:
            ended += await self.peers.abort(name)
        return ended

    def loaded(self) -> tuple[Engine, ServedModel]:
        """Raises Unavailable before the model is ready and after the engine's end, not in a
        drain."""
        engine, model = self.host.engine, self.host.model
        if engine is None or model is None or self.lifecycle.ended:
            raise self.lifecycle.refusal() or NotReady("The model is not ready yet.")
        return engine, model

    @cached_property
    def probe(self) -> Probe:
        return Probe(self.host, self.lifecycle, heard_s=lambda: self.gauges().shortest_silence_s)

    @cached_property
    def bounds(self) -> Bounds:
        return Bounds.of(self.settings)


def serving_of(request: Request) -> Serving:
    serving: Serving = request.app.state.serving
    return serving
