"""A server that has one answer, and the check run against a server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.check import command
from tests.support.serving import eventually


@asynccontextmanager
async def listening(path: str, content: Response) -> AsyncIterator[str]:
    """The URL of a server that has this answer at this path, and no other."""

    async def answer(_: Request) -> Response:
        return content

    routes = [Route(path, answer, methods=["GET", "POST"])]
    # asyncio switches off Nagle's delay, 40 ms an answer, only for a socket of this protocol.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(Starlette(routes=routes), ws="none", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve([listener]))
    await eventually(lambda: server.started)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    await task


async def run(url: str, *arguments: str) -> int:
    return await asyncio.to_thread(command.main, ["--base-url", url, "--timeout", "5", *arguments])
