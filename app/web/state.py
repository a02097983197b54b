"""What the web layer shares: one `Serving` per application."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from starlette.requests import Request

from app.core.host import ModelHost
from app.core.model import ServedModel
from app.core.probe import Probe
from app.dialects.base import Bounds
from app.engine.base import Engine
from app.errors import NotReady
from app.lifecycle import NO_NETWORK, Gate, Lifecycle, Network
from app.metrics import Figures, LoopLag, Metrics, ThisProcess
from app.settings import Settings
from app.web.orders import Siblings


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
    siblings: Siblings | None = None
    """The server's other processes, if there are any."""

    def figures(self) -> Figures:
        """Of the whole server."""
        counted = self.siblings or ThisProcess(self.gate, self.lag, self.host.silent_s)
        return counted.figures()

    async def abort(self, name: str | None) -> int:
        """End the server's requests of this name, or all; returns how many there were."""
        ended = self.gate.abort(name)
        if self.siblings is not None:
            ended += await self.siblings.abort(name)
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
        return Probe(self.host, self.lifecycle, heard_s=lambda: self.figures().heard_s)

    @cached_property
    def bounds(self) -> Bounds:
        return Bounds.of(self.settings)


def serving_of(request: Request) -> Serving:
    serving: Serving = request.app.state.serving
    return serving
