"""The line that says that the server is ready, and where: at every LOG_LEVEL, on every output."""

from __future__ import annotations

import socket

from app.life.service import Service
from app.lifecycle import Phase
from app.logs import setup as logs
from app.settings.catalogue import Settings


def url_of(settings: Settings, listener: socket.socket) -> str:
    """The URL under which the API is found, as an address that was bound says it; of a unix socket
    `unix:` and its path."""
    name = listener.getsockname()
    if isinstance(name, str):
        return f"unix:{name}"
    host, port = name[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if settings.ssl_certfile else 'http'}://{shown}:{port}/v1"


def announce_when_ready(service: Service, url: str | None, *, upstream: str | None = None) -> None:
    """`url`: None where no client connects: jobs are taken. `upstream`: the server that answers
    them, if this one has no model."""

    def announce(phase: Phase) -> None:
        seconds = round(service.lifecycle.uptime_s, 1)
        model = service.settings.names[0] if upstream is None else upstream
        if phase is Phase.READY:
            logs.announce(
                "ready",
                url=url,
                model=model,
                context_length=service.host.context_length,
                seconds=seconds,
            )
        elif phase is Phase.FOLLOWING:
            logs.announce("following: node 0 serves", model=model, seconds=seconds)

    service.lifecycle.listeners.append(announce)
