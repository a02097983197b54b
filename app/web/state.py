"""The state that all of web/ shares: one `Serving` per application."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from starlette.requests import Request

from app import metric_files
from app.dialects.answering import Answering
from app.endpoint import Network
from app.engine.base import Engine
from app.errors import NotReady
from app.files.files import Files
from app.gate import Gate
from app.generation.model import ServedModel
from app.life.control import Peers
from app.life.host import ModelHost
from app.life.probe import Probe
from app.life.service import Service
from app.life.sleep import Sleep
from app.lifecycle import Lifecycle
from app.metrics import Metrics
from app.recent_errors import RecentErrors
from app.settings.bounds import Bounds
from app.settings.catalogue import Settings, most_body_bytes
from app.stats import Gauges, LocalGauges
from app.store.store import Store
from app.tracing.spans import Tracing

_TEXT_BYTES = most_body_bytes(None, pictures=False)


@dataclass(frozen=True, kw_only=True)
class Serving:
    """The parts of a `Service` that answering HTTP needs."""

    settings: Settings
    lifecycle: Lifecycle
    gate: Gate
    host: ModelHost
    sleep: Sleep
    store: Store | None
    files: Files | None
    local_gauges: LocalGauges
    """Those of this process alone."""
    metrics: Metrics | None
    """None: disabled."""
    tracing: Tracing | None
    """The same."""
    network: Callable[[], Network]
    """State of the endpoint through which a load balancer reaches this server."""
    peers: Peers | None
    """The server's other processes, if there are any."""

    @classmethod
    def of(cls, service: Service, metrics: Metrics | None) -> Self:
        return cls(
            settings=service.settings,
            lifecycle=service.lifecycle,
            gate=service.gate,
            host=service.host,
            sleep=service.sleep,
            store=service.store,
            files=service.files,
            local_gauges=service.gauges,
            metrics=metrics,
            tracing=service.tracing,
            network=service.control.network,
            peers=service.control.peers,
        )

    def gauges(self) -> Gauges:
        """The gauges of the whole server."""
        return (self.peers or self.local_gauges).gauges()

    async def abort(self, name: str | None) -> int:
        """End the server's requests of this name, or all if None; returns how many."""
        ended = self.gate.abort(name)
        if self.peers is not None:
            ended += await self.peers.abort(name)
        return ended

    def loaded(self) -> tuple[Engine, ServedModel]:
        """The engine and the model. Raises Unavailable before the model is ready and after the
        engine has ended, but not while draining."""
        engine, model = self.host.engine, self.host.model
        if engine is None or model is None or self.lifecycle.ended:
            raise self.lifecycle.refusal() or NotReady("The model is not ready yet.")
        return engine, model

    @property
    def most_body_bytes(self) -> int:
        model = self.host.model
        if model is not None and model.info.takes_pictures:
            return self.settings.most_body_bytes(pictures=True)
        return self.settings.max_body_bytes or _TEXT_BYTES

    @cached_property
    def probe(self) -> Probe:
        return Probe(
            self.host,
            self.lifecycle,
            shortest_silence_s=lambda: self.gauges().shortest_silence_s,
        )

    @cached_property
    def recent_errors(self) -> RecentErrors:
        return RecentErrors(metric_files.folder)

    @cached_property
    def bounds(self) -> Bounds:
        return Bounds.of(self.settings)

    @cached_property
    def answering(self) -> Answering:
        return Answering(self.settings, self.bounds, self.gate, self.store, self.files)


def serving_of(request: Request) -> Serving:
    serving: Serving = request.app.state.serving
    return serving
