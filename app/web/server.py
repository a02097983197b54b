"""The serving process: its port, what it is told to do (control.py), the way it ends.

SIGTERM, SIGINT ─> leaving: the load balancer is told ─> draining: no new requests, those inside may
                   finish ─> engine down ─> exit 0
a second one    ─> out now (128 + signal)
engine lost     ─> those inside get an error ─> exit 70
start failed    ─> exit 71, or 78 for a wrong setting
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import uvicorn
import uvloop

from app.errors import ConfigError, Draining, EngineDied, StartError
from app.gate import Gate
from app.life.control import Control
from app.life.ending import exit_now, first_of
from app.life.host import Launch, ModelHost, exit_code
from app.lifecycle import Lifecycle, Phase
from app.logs.setup import log
from app.metrics import Metrics
from app.settings.catalogue import Settings
from app.stats import LocalGauges, LoopLag
from app.web.app import create_app
from app.web.connection import bounded
from app.web.state import Serving

_ANSWER_THE_LOST_S = 1.5
_CUT_OFF_S = 3.0
_CONNECTIONS_CLOSE_S = 3
"""More than a client that was refused has for reading why."""
_BACKLOG = 2048


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
    # To share the port with a stranger would be no error: only a socket that does not is told.
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
    # Connections inherit these: a client that vanished without a word is noticed by the kernel.
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
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Server(settings, listener, launch, cleanup, control).serve())


class Server:
    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        launch: Launch,
        cleanup: Callable[[], None],
        control: Control,
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._cleanup = cleanup
        self._control = control
        self._siblings = control.peers
        self._lifecycle = Lifecycle()
        processes = self._siblings.count if self._siblings else 1
        self._gate = Gate(
            self._lifecycle,
            max_running=-(-settings.max_concurrency // processes),
            max_waiting=-(-settings.max_queue // processes),
        )
        self._lag = LoopLag()
        self._host = ModelHost(
            settings, self._lifecycle, self._gate, launch,
            self._siblings.all_warm if self._siblings else None, quiet=self._siblings is not None,
        )  # fmt: skip
        self._own = LocalGauges(self._gate, self._lag, self._host.silent_s)

    async def serve(self) -> int:
        await self._control.open(self._lifecycle, self._gate)
        if self._siblings is not None:
            self._gate.on_change = self._publish
        http = self._http(self._serving())
        if self._siblings is None:
            host, port = self._listener.getsockname()[:2]
            log.info("listening", host=host, port=port, model=self._settings.names[0])
        answering = asyncio.create_task(http._serve([self._listener]), name="http")
        measuring = asyncio.create_task(self._measure_lag())
        await first_of(answering, self._control.asked.wait(), self._lifecycle.over.wait())
        if not answering.done():
            await self._empty()
            http.should_exit = True
        if self._lifecycle.ended:
            # The engine cannot be asked to end any more, and a start that hangs in another
            # library cannot be waited for.
            code = exit_code(self._lifecycle, self._host)
            log.error("exiting", reason=self._lifecycle.reason, code=code)
            self._exit_now(code)
        if answering.done() and (broken := answering.exception()) is not None:
            log.error("the HTTP server failed", error=repr(broken))
            self._exit_now(StartError.exit_code)
        if not self._host.loaded:
            log.info("stopped before the model was loaded")
            self._exit_now(0)
        await answering
        measuring.cancel()
        self._lifecycle.enter(Phase.STOPPED)
        log.info("stopped", uptime_s=round(self._lifecycle.uptime_s, 1))
        return 0

    def _serving(self) -> Serving:
        counted = self._siblings or self._own
        metrics = None
        if self._settings.enable_metrics:
            metrics = Metrics(
                self._lifecycle, self._gate, self._lag, self._control.network, counted
            )
        return Serving(
            self._settings, self._lifecycle, self._gate, self._host, self._lag, metrics,
            self._control.network, self._siblings,
        )  # fmt: skip

    def _http(self, serving: Serving) -> uvicorn.Server:
        config = uvicorn.Config(
            create_app(serving),
            loop="uvloop",
            http=bounded(self._settings),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=True,
            forwarded_allow_ips=self._settings.forwarded_allow_ips,
            timeout_graceful_shutdown=_CONNECTIONS_CLOSE_S,
            backlog=_BACKLOG,
        )
        return uvicorn.Server(config)

    async def _empty(self) -> None:
        """See everybody out: those inside finish or are told why not."""
        await self._control.leave()
        if not self._lifecycle.ended:
            left_s = self._settings.drain_timeout_s - (time.monotonic() - self._control.asked_at)
            idle = self._gate.wait_idle(max(0.0, left_s))
            await first_of(idle, self._lifecycle.over.wait())
        if self._lifecycle.ended:
            self._gate.end_all(lambda: EngineDied("The engine has ended; please try again."))
            await self._gate.wait_idle(_ANSWER_THE_LOST_S)
        elif self._gate.in_flight:
            cut = self._gate.end_all(
                lambda: Draining("This server is shutting down and could not wait any longer.")
            )
            log.warning("drain timeout: the rest is cut off", requests=cut)
            await self._gate.wait_idle(_CUT_OFF_S)
        await asyncio.sleep(0.05)  # the last frames leave the sockets
        if not self._lifecycle.ended:
            await first_of(self._control.all_out(), self._lifecycle.over.wait())

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LoopLag.INTERVAL_S
            await asyncio.sleep(LoopLag.INTERVAL_S)
            self._lag.noted(loop.time() - due)
            self._publish()

    def _publish(self) -> None:
        if self._siblings is not None:
            self._siblings.publish(self._own)

    def _exit_now(self, code: int) -> NoReturn:
        exit_now(code, self._cleanup)
