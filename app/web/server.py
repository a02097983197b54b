"""The `Work` of a process that serves HTTP: uvicorn on its sockets (web/listening.py). Its life:
life/service.py."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import uvicorn

from app import unix_sockets
from app.errors import ServeError
from app.life.control import Control
from app.life.host import Launch
from app.life.ready import announce_when_ready, url_of
from app.life.service import Service, live
from app.lifecycle import Phase
from app.logs.setup import log
from app.loop import run_loop
from app.metrics import Metrics
from app.settings.catalogue import Settings
from app.stats import LoopLag
from app.web.app import create_app
from app.web.connection import bounded
from app.web.listening import BACKLOG, Http, bind_health
from app.web.state import Serving
from app.web.tls import Tls
from app.web.transports import UNIX_CLIENT

_CONNECTIONS_CLOSE_S = 3
"""Longer than web/generation.py gives a client for receiving an error."""
_SOCKETS_FLUSH_S = 0.05
"""For the last frames to leave the sockets."""


def run(
    settings: Settings,
    listener: socket.socket,
    launch: Launch,
    cleanup: Callable[[], None],
    control: Control,
) -> int:
    """Serve until the end; returns the exit code. `cleanup` runs before a forced exit, too. Raises
    ConfigError if PORT_HEALTH cannot be bound or the certificates are wrong."""
    # Of several serving processes the parent removes it: they share one.
    remove = unix_sockets.remover(listener) if control.peers is None else lambda: None

    def clean_up() -> None:
        remove()
        cleanup()

    async def serve() -> int:
        service = Service(settings, launch, control, clean_up)
        return await live(Server(service, listener, health, tls), service)

    try:
        tls, health = Tls.of(settings), bind_health(settings)
        return run_loop(serve())
    finally:
        remove()


def believed(settings: Settings) -> str:
    """Whose X-Forwarded-For is believed: who may open our unix socket was chosen by its mode."""
    allowed = settings.forwarded_allow_ips
    return allowed if allowed.strip() == "*" else f"{allowed},{UNIX_CLIENT}"


class Server:
    """`Work` of a serving process: uvicorn, which answers while the model still loads."""

    extra_drain_s = 0.0
    extra_answers_s = 0.0

    def __init__(
        self,
        service: Service,
        listener: socket.socket,
        health: socket.socket | None = None,
        tls: Tls | None = None,
    ) -> None:
        """`health`: a socket on which only the health routes answer, without TLS."""
        self._service = service
        self._listener = listener
        self._tls = tls
        self._peers = service.control.peers
        self._http = Http(self._uvicorn(), service.settings, listener, health, tls)

    @property
    def closable(self) -> bool:
        return self._service.host.loaded

    async def start(self) -> asyncio.Task[None]:
        if self._peers is not None:
            self._service.gate.on_change = self._publish
        else:
            address = unix_sockets.address(self._listener)
            log.info("listening", **address, model=self._service.settings.names[0])
            announce_when_ready(self._service, url_of(self._service.settings, self._listener))
        self._answering = asyncio.create_task(self._http.answer(), name="http")
        self._aside = [asyncio.create_task(self._measure_lag(), name="lag")]
        if self._tls is not None:
            self._aside.append(asyncio.create_task(self._tls.watch(), name="certificates"))
        return self._answering

    def stop_taking(self) -> None:
        self._service.lifecycle.enter(Phase.DRAINING)

    async def drained(self) -> None:
        await self._service.gate.wait_idle()
        await asyncio.sleep(_SOCKETS_FLUSH_S)

    def fail_rest(self, error: Callable[[], ServeError]) -> int:
        return self._service.gate.end_all(error)

    async def close(self) -> None:
        """The application's lifespan ends the engine."""
        self._http.should_exit = True
        await self._answering
        for task in self._aside:
            task.cancel()

    def _uvicorn(self) -> uvicorn.Config:
        service, settings = self._service, self._service.settings
        gauges = self._peers or service.gauges
        metrics = None
        if settings.enable_metrics:
            metrics = Metrics(service.lifecycle, gauges, service.control.network)
        return uvicorn.Config(
            create_app(Serving.of(service, metrics)),
            loop="uvloop",
            http=bounded(settings),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=True,
            forwarded_allow_ips=believed(settings),
            timeout_graceful_shutdown=_CONNECTIONS_CLOSE_S,
            backlog=BACKLOG,
        )

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LoopLag.INTERVAL_S
            await asyncio.sleep(LoopLag.INTERVAL_S)
            self._service.lag.note(loop.time() - due)
            self._publish()

    def _publish(self) -> None:
        if self._peers is not None:
            self._peers.publish(self._service.gauges)
