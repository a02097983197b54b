"""The `Work` of a process that serves HTTP: the port, and uvicorn. Its life: life/service.py."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
import uvloop

from app.errors import ConfigError, ServeError
from app.life.control import Control
from app.life.host import Launch
from app.life.ready import announce_when_ready, listening
from app.life.service import Service, live
from app.lifecycle import Phase
from app.logs.setup import log
from app.metrics import Metrics
from app.settings.catalogue import Settings
from app.stats import LoopLag
from app.web.app import create_app
from app.web.connection import bounded
from app.web.state import Serving

_CONNECTIONS_CLOSE_S = 3
"""Longer than web/generation.py gives a client for receiving an error."""
_BACKLOG = 2048
_SOCKETS_FLUSH_S = 0.05
"""For the last frames to leave the sockets."""


def bind(settings: Settings) -> socket.socket:
    """Bind the port, before any slow step of the start. Raises ConfigError."""
    with _closed_on_failure(settings) as sockets:
        sockets.append(listener := _socket(settings))
        listener.bind((settings.host, settings.port))
        listener.listen(_BACKLOG)
    return listener


def bind_several(settings: Settings, count: int) -> list[socket.socket]:
    """Bind `count` sockets to the port; the kernel spreads connections over them.

    Raises ConfigError.
    """
    # With SO_REUSEPORT another program's bind of this port would succeed, too; an exclusive bind
    # before it makes sure that the port is free.
    with _socket(settings) as first, _closed_on_failure(settings) as listeners:
        first.bind((settings.host, settings.port))
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for _ in range(count):
            listeners.append(listener := _socket(settings))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(first.getsockname())
            listener.listen(_BACKLOG)
    return listeners


def bind_health(settings: Settings) -> socket.socket | None:
    """Bind PORT_HEALTH, if it is a port of its own. Raises ConfigError.

    Each of several serving processes binds it: the balancer may ask any of them.
    """
    if settings.health_port is None:
        return None
    with _closed_on_failure(settings, name="PORT_HEALTH", port=settings.health_port) as sockets:
        sockets.append(listener := _socket(settings))
        if settings.tokenizer_workers > 1:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((settings.host, settings.health_port))
        listener.listen(_BACKLOG)
    return listener


def _socket(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections inherit these options, by which the kernel notices a client that vanished
    # without closing its connection.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        timeout_ms = int(settings.write_timeout_s * 1000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
    return listener


@contextmanager
def _closed_on_failure(
    settings: Settings, *, name: str = "PORT", port: int | None = None
) -> Iterator[list[socket.socket]]:
    """A list of sockets, all closed if one of them cannot bind. Raises ConfigError."""
    sockets: list[socket.socket] = []
    try:
        yield sockets
    except OSError as error:
        for each in sockets:
            each.close()
        address = f"{settings.host}:{settings.port if port is None else port}"
        reason = error.strerror or error
        raise ConfigError(f"{name}: cannot listen on {address}: {reason}") from None


def run(
    settings: Settings,
    listener: socket.socket,
    launch: Launch,
    cleanup: Callable[[], None],
    control: Control,
) -> int:
    """Serve until the end; returns the exit code. `cleanup` runs before a forced exit, too. Raises
    ConfigError if PORT_HEALTH cannot be bound."""
    health = bind_health(settings)

    async def serve() -> int:
        service = Service(settings, launch, control, cleanup)
        return await live(Server(service, listener, health), service)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve())


class Server:
    """`Work` of a serving process: uvicorn, which answers while the model still loads."""

    extra_drain_s = 0.0
    extra_answers_s = 0.0

    def __init__(
        self, service: Service, listener: socket.socket, health: socket.socket | None = None
    ) -> None:
        """`health`: a socket on which only the health routes answer."""
        self._service = service
        self._listener = listener
        self._sockets = [listener] if health is None else [listener, health]
        self._peers = service.control.peers
        self._http = self._uvicorn()

    @property
    def closable(self) -> bool:
        return self._service.host.loaded

    async def start(self) -> asyncio.Task[None]:
        if self._peers is not None:
            self._service.gate.on_change = self._publish
        else:
            host, port = self._listener.getsockname()[:2]
            log.info("listening", host=host, port=port, model=self._service.settings.names[0])
            announce_when_ready(self._service, listening(self._service.settings, self._listener))
        self._answering = asyncio.create_task(self._http._serve(self._sockets), name="http")
        self._measuring = asyncio.create_task(self._measure_lag(), name="lag")
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
        self._measuring.cancel()

    def _uvicorn(self) -> uvicorn.Server:
        service, settings = self._service, self._service.settings
        gauges = self._peers or service.gauges
        metrics = None
        if settings.enable_metrics:
            metrics = Metrics(service.lifecycle, gauges, service.control.network)
        config = uvicorn.Config(
            create_app(Serving.of(service, metrics)),
            loop="uvloop",
            http=bounded(settings),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=True,
            forwarded_allow_ips=settings.forwarded_allow_ips,
            timeout_graceful_shutdown=_CONNECTIONS_CLOSE_S,
            backlog=_BACKLOG,
        )
        return uvicorn.Server(config)

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
