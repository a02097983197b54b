"""HTTP as the work of a process: the port, and uvicorn behind it. Its life: life/service.py."""

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
"""More than a client that was refused has for reading why."""
_BACKLOG = 2048
_FRAMES_LEAVE_S = 0.05


def bind(settings: Settings) -> socket.socket:
    """Take the port, before anything slow begins. Raises ConfigError."""
    with _taking(settings) as sockets:
        sockets.append(listener := _socket(settings))
        listener.bind((settings.host, settings.port))
        listener.listen(_BACKLOG)
    return listener


def bind_several(settings: Settings, count: int) -> list[socket.socket]:
    """Take the port with so many sockets; the kernel spreads connections over them.

    Raises ConfigError.
    """
    # Sharing the port with another program would be no error: only an exclusive bind fails.
    with _socket(settings) as first, _taking(settings) as listeners:
        first.bind((settings.host, settings.port))
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for _ in range(count):
            listeners.append(listener := _socket(settings))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(first.getsockname())
            listener.listen(_BACKLOG)
    return listeners


def _socket(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections inherit these: the kernel notices a client that vanished without closing.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        patience_ms = int(settings.write_timeout_s * 1000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience_ms)
    return listener


@contextmanager
def _taking(settings: Settings) -> Iterator[list[socket.socket]]:
    """Sockets that are closed again if one of them cannot have the port."""
    sockets: list[socket.socket] = []
    try:
        yield sockets
    except OSError as error:
        for each in sockets:
            each.close()
        raise ConfigError(
            f"PORT: cannot listen on {settings.host}:{settings.port}: {error.strerror or error}"
        ) from None


def run(
    settings: Settings,
    listener: socket.socket,
    launch: Launch,
    cleanup: Callable[[], None],
    control: Control,
) -> int:
    """Serve until the end; returns the exit code. `cleanup` runs before a forced exit, too."""

    async def serve() -> int:
        service = Service(settings, launch, control, cleanup)
        return await live(Server(service, listener), service)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve())


class Server:
    """`Work` of a serving process: uvicorn answers from the first second on."""

    extra_drain_s = 0.0
    extra_answers_s = 0.0

    def __init__(self, service: Service, listener: socket.socket) -> None:
        self._service = service
        self._listener = listener
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
        self._answering = asyncio.create_task(self._http._serve([self._listener]), name="http")
        self._measuring = asyncio.create_task(self._measure_lag(), name="lag")
        return self._answering

    def stop_taking(self) -> None:
        self._service.lifecycle.enter(Phase.DRAINING)

    async def drained(self) -> None:
        await self._service.gate.wait_idle()
        await asyncio.sleep(_FRAMES_LEAVE_S)  # the last frames leave the sockets

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
