"""The sockets that a server listens on, and uvicorn on them.

PORT          TCP; one socket for each serving process     TLS with SSL_CERTFILE
UDS           a unix socket instead, which they share      plain
PORT_HEALTH   TCP, beside either                           plain
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from app import unix_sockets
from app.errors import ConfigError
from app.settings.catalogue import Settings
from app.web.tls import Tls, read

BACKLOG = 2048
_NEVER_S = 86_400.0


class Http(uvicorn.Server):
    """uvicorn, whose own way of listening has one TLS for all sockets, and its default times: a
    client could connect, say nothing, and hold its connection for a minute."""

    def __init__(
        self,
        config: uvicorn.Config,
        settings: Settings,
        listener: socket.socket,
        health: socket.socket | None = None,
        tls: Tls | None = None,
    ) -> None:
        super().__init__(config)
        self._settings = settings
        self._listener, self._health, self._tls = listener, health, tls

    async def answer(self) -> None:
        """Answer on the sockets until `should_exit`; then close them."""
        await self._serve([self._listener, *([self._health] if self._health is not None else [])])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        tls: dict[str, Any] = {}
        if self._tls is not None:
            tls = {
                "ssl": self._tls.context,
                "ssl_handshake_timeout": self._settings.header_timeout_s,
                "ssl_shutdown_timeout": _NEVER_S,  # web/connection.py ends it
            }
        await self._listen(self._listener, **tls)
        if self._health is not None:
            await self._listen(self._health)

    async def _listen(self, sock: socket.socket, **tls: Any) -> None:
        loop = asyncio.get_running_loop()
        if sock.family == socket.AF_UNIX:
            server = await loop.create_unix_server(self._connection, sock=sock, backlog=BACKLOG)
        else:
            server = await loop.create_server(self._connection, sock=sock, backlog=BACKLOG, **tls)
        self.servers.append(server)

    def _connection(self) -> asyncio.Protocol:
        make: Any = self.config.http_protocol_class
        protocol: asyncio.Protocol = make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol


def bind(settings: Settings) -> socket.socket:
    """Bind the port, before any slow step of the start. Raises ConfigError."""
    _check_certificates(settings)
    if settings.uds is not None:
        return _bind_unix(settings)
    with _closed_on_failure(settings) as sockets:
        sockets.append(listener := _socket(settings))
        listener.bind((settings.host, settings.port))
        listener.listen(BACKLOG)
    return listener


def bind_several(settings: Settings, count: int) -> list[socket.socket]:
    """Bind `count` sockets to the port; the kernel spreads connections over them. A unix socket is
    one for all: each process takes a connection when it has the time. Raises ConfigError."""
    _check_certificates(settings)
    if settings.uds is not None:
        only = _bind_unix(settings)
        return [only, *(only.dup() for _ in range(count - 1))]
    # With SO_REUSEPORT another program's bind of this port would succeed, too; an exclusive bind
    # before it makes sure that the port is free.
    with _closed_on_failure(settings) as listeners, _socket(settings) as first:
        first.bind((settings.host, settings.port))
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for _ in range(count):
            listeners.append(listener := _socket(settings))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(first.getsockname())
            listener.listen(BACKLOG)
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
        listener.listen(BACKLOG)
    return listener


def _check_certificates(settings: Settings) -> None:
    """Raises ConfigError, in the parent of several processes, too, which serves none itself."""
    if settings.ssl_certfile is not None:
        read(settings)


def _bind_unix(settings: Settings) -> socket.socket:
    assert settings.uds is not None
    return unix_sockets.bind(settings.uds, mode=int(settings.uds_mode, 8), backlog=BACKLOG)


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
        other = f"; choose another {name}" if error.errno == errno.EADDRINUSE else ""
        raise ConfigError(f"{name}: cannot listen on {address}: {reason}{other}") from None
