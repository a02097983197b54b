"""The real application on a real uvicorn on loopback, with the engine that a test passes."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn

from app.engine.base import Engine
from app.gate import Gate
from app.life.control import LocalControl
from app.life.host import Launch
from app.life.service import Service
from app.lifecycle import Lifecycle, Phase
from app.metrics import Metrics
from app.settings.catalogue import Settings
from app.settings.load import load
from app.web.app import create_app
from app.web.connection import bounded
from app.web.listening import Http, bind, bind_health
from app.web.server import believed
from app.web.state import Serving
from app.web.tls import Tls

HANGS_S = 60.0
"""A test that waits so long for something hangs; it says nothing about the machine's speed."""
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients of `http:` only. Without it each would load the system's certificates, in 50 ms."""


@dataclass
class Running:
    client: httpx.AsyncClient
    serving: Serving
    engine: Any
    port: int
    connections: set[Any]
    """The server's open ones, each a `BoundedHttp`."""

    @property
    def gate(self) -> Gate:
        return self.serving.gate

    @property
    def lifecycle(self) -> Lifecycle:
        return self.serving.lifecycle

    async def chat(self, content: str = "hi", **fields: Any) -> httpx.Response:
        body = {"model": "default", "messages": [{"role": "user", "content": content}], **fields}
        return await self.client.post("/v1/chat/completions", json=body)


def settings(**environment: str) -> Settings:
    """Settings from names as in the environment, and from nothing else."""
    plain = {"LOG_FILE": "", "PORT": "0", "HOST": "127.0.0.1", "STORE_URL": "memory"}
    return load({}, plain | environment).settings


def assembled(configured: Settings, launch: Launch) -> Serving:
    """What web/server.py makes of its `Service`, without starting anything."""
    service = Service(configured, launch, LocalControl(configured, lambda: None), lambda: None)
    return Serving.of(service, Metrics(service.lifecycle, service.gauges))


def uvicorn_config(serving: Serving) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(serving), http=bounded(serving.settings), ws="none", log_config=None,
        access_log=False, timeout_graceful_shutdown=2, forwarded_allow_ips=believed(
            serving.settings
        ),
    )  # fmt: skip


@asynccontextmanager
async def serve(
    engine: Engine | None,
    *,
    ready: bool = True,
    client_tls: ssl.SSLContext | None = None,
    **environment: str,
) -> AsyncIterator[Running]:
    """`environment`: as for `settings`. With `engine` None the server never gets ready.
    `client_tls`: of the client, where SSL_CERTFILE is set."""
    configured = settings(**environment)

    async def launch(starting: Any) -> Engine:
        if engine is None:
            await asyncio.Event().wait()
        starting.loading()
        assert engine is not None
        return engine

    serving = assembled(configured, launch)
    lifecycle = serving.lifecycle
    listener = bind(configured)
    port = 0 if configured.uds else listener.getsockname()[1]
    tls = Tls.of(configured)
    server = Http(uvicorn_config(serving), configured, listener, bind_health(configured), tls)
    task = asyncio.create_task(server.answer())
    watching = asyncio.create_task(tls.watch()) if tls is not None else None
    try:
        await eventually(lambda: server.started)
        if ready and engine is not None:
            await eventually(lambda: lifecycle.phase is Phase.READY)
        scheme = "https" if tls is not None else "http"
        async with httpx.AsyncClient(
            base_url=f"{scheme}://127.0.0.1:{port}",
            timeout=20,
            verify=PLAIN if client_tls is None else client_tls,
            transport=httpx.AsyncHTTPTransport(uds=configured.uds) if configured.uds else None,
        ) as client:
            yield Running(client, serving, engine, port, server.server_state.connections)
    finally:
        server.should_exit = True
        await task
        if watching is not None:
            watching.cancel()
        if serving.store is not None:
            await serving.store.close()
        if serving.files is not None:
            await serving.files.close()


async def eventually(
    holds: Callable[[], bool | Awaitable[bool]], *, timeout_s: float = HANGS_S
) -> None:
    """Wait for a state that sends no event of its own, by polling it."""
    async with asyncio.timeout(timeout_s):
        while True:
            result = holds()
            if isinstance(result, Awaitable):
                result = await result
            if result:
                return
            await asyncio.sleep(0.005)
