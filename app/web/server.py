"""The serving process: its port, its signals, the way it ends.

SIGTERM, SIGINT ─> leaving: the load balancer is told ─> draining: no new requests, those inside may
                   finish ─> engine down ─> exit 0
a second one    ─> out now (128 + signal)
engine lost     ─> those inside get an error ─> exit 70
start failed    ─> exit 71, or 78 for a wrong setting
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Callable
from typing import NoReturn

import uvicorn
import uvloop

from app.core.host import Launch, ModelHost, exit_code
from app.core.process import exit_now, first_of
from app.errors import ConfigError, Draining, EngineDied, StartError
from app.hathora.link import ServerEnd
from app.lifecycle import NO_NETWORK, Gate, Lifecycle, Network, Phase
from app.logs import log
from app.metrics import LoopLag, Metrics
from app.settings import Settings
from app.web.app import create_app
from app.web.protocol import bounded
from app.web.state import Serving

_ANSWER_THE_LOST_S = 1.5
_CUT_OFF_S = 3.0
_CONNECTIONS_CLOSE_S = 2
_LEAVE_S = 10.0
"""For the removal of the network endpoint; requests are served meanwhile."""


def bind(settings: Settings) -> socket.socket:
    """Take the port, before anything slow begins. Raises ConfigError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections inherit these: a client that vanished without a word is noticed by the kernel.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        patience_ms = int(settings.write_timeout_s * 1000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience_ms)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"PORT: cannot listen on {settings.host}:{settings.port}: {error.strerror or error}"
        ) from None
    return listener


def run(
    settings: Settings,
    listener: socket.socket,
    launch: Launch,
    cleanup: Callable[[], None],
    link_fd: int | None = None,
) -> int:
    """Serve until the end; returns the exit code.

    `cleanup` runs before a forced exit, too; `link_fd`: the line to the supervisor, if any.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Server(settings, listener, launch, cleanup, link_fd).serve())


class Server:
    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        launch: Launch,
        cleanup: Callable[[], None],
        link_fd: int | None = None,
    ) -> None:
        self._settings = settings
        self._link_fd = link_fd
        self._link: ServerEnd | None = None
        self._listener = listener
        self._cleanup = cleanup
        self._lifecycle = Lifecycle()
        self._gate = Gate(
            self._lifecycle, max_running=settings.max_concurrency, max_waiting=settings.max_queue
        )
        self._lag = LoopLag()
        self._host = ModelHost(settings, self._lifecycle, self._gate, launch)
        self._asked = asyncio.Event()
        self._asked_at = 0.0
        self._signals = 0

    async def serve(self) -> int:
        if self._link_fd is not None:
            self._link = ServerEnd(self._link_fd)
            await self._link.open(lost=self._orphaned)
            self._lifecycle.listeners.append(self._link.tell)
        metrics = None
        if self._settings.enable_metrics:
            metrics = Metrics(self._lifecycle, self._gate, self._lag, self._network)
        serving = Serving(
            self._settings, self._lifecycle, self._gate, self._host, self._lag, metrics,
            self._network,
        )  # fmt: skip
        http = self._http(serving)
        self._take_signals()
        host, port = self._listener.getsockname()[:2]
        log.info("listening", host=host, port=port, model=self._settings.names[0])
        answering = asyncio.create_task(http._serve([self._listener]), name="http")
        measuring = asyncio.create_task(self._measure_lag())
        await first_of(answering, self._asked.wait(), self._lifecycle.over.wait())
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
            backlog=2048,
        )
        return uvicorn.Server(config)

    def _network(self) -> Network:
        return self._link.network if self._link is not None else NO_NETWORK

    # -- signals -----------------------------------------------------------------------------

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_end, number)
        # SGLang's children send it when they fail; left to itself it means a core dump. That they
        # have ended is seen directly (engine/launch.py: Watch).
        loop.add_signal_handler(signal.SIGQUIT, log.error, "an engine process reports a failure")

    def _asked_to_end(self, number: signal.Signals) -> None:
        self._signals += 1
        if self._signals > 1:
            log.warning("second signal: exiting at once", signal=number.name)
            self._exit_now(128 + number)
        log.info(
            "draining", signal=number.name, in_flight=self._gate.in_flight,
            timeout_s=self._settings.drain_timeout_s,
        )  # fmt: skip
        self._asked_at = time.monotonic()
        if self._link is not None and self._link.network.attached:
            self._lifecycle.enter(Phase.LEAVING)
        else:
            self._lifecycle.enter(Phase.DRAINING)
        self._asked.set()

    def _orphaned(self) -> None:
        """Without the supervisor nobody could remove the endpoint later: end, so that health checks
        take the load balancer's traffic away."""
        if not self._signals:
            self._asked_to_end(signal.SIGTERM)

    async def _leave(self) -> None:
        """Serve on until the load balancer sends nobody any more."""
        if self._link is None or self._lifecycle.phase is not Phase.LEAVING:
            return
        within_s = min(_LEAVE_S, self._settings.drain_timeout_s)
        await first_of(self._link.left(within_s), self._lifecycle.over.wait())
        if self._link.network.attached and not self._lifecycle.ended:
            log.warning("the network endpoint is not removed yet; draining all the same")
        self._lifecycle.enter(Phase.DRAINING)

    async def _empty(self) -> None:
        """See everybody out: those inside finish or are told why not."""
        await self._leave()
        if not self._lifecycle.ended:
            left_s = self._settings.drain_timeout_s - (time.monotonic() - self._asked_at)
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

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LoopLag.INTERVAL_S
            await asyncio.sleep(LoopLag.INTERVAL_S)
            self._lag.noted(loop.time() - due)

    def _exit_now(self, code: int) -> NoReturn:
        exit_now(code, self._cleanup)
