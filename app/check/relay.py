"""A plain port on loopback that leads to a server behind TLS or on a unix socket.

SGLang's load client trusts the authorities that are built into it and no others, has no certificate
of its own to show, and knows no unix sockets. What it measures through here includes two copies of
each piece, made by a thread of this process, which else only waits.
"""

from __future__ import annotations

import argparse
import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias

import httpx
import uvloop

_READ_BYTES = 65_536
_Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextmanager
def relayed(options: argparse.Namespace) -> Iterator[str]:
    """The address at which the load client is to ask; plain and known ones are their own."""
    needs_one = options.uds or options.ca or options.cert
    if not needs_one:
        yield str(options.base_url).rstrip("/")
        return
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    relay = _Relay(options)

    def run(coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, loop).result()

    run(relay.open())
    try:
        yield f"http://127.0.0.1:{relay.port}{options.base_url.path}".rstrip("/")
    finally:
        run(relay.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _Relay:
    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()  # it may still be connecting
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            async with asyncio.timeout(self._options.timeout):
                there, back = await _connected(self._options)
            self._writers.add(back)
            await asyncio.gather(_copied(reader, back), _copied(there, writer))
            self._writers.discard(back)
        except OSError:  # the load client sees that its connection ends, and reports it
            writer.close()
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)


async def _connected(options: argparse.Namespace) -> _Streams:
    if options.uds:
        return await asyncio.open_unix_connection(options.uds)
    url: httpx.URL = options.base_url
    tls = options.tls if url.scheme == "https" else None
    port = url.port or (443 if tls is not None else 80)
    return await asyncio.open_connection(url.host, port, ssl=tls)


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):  # either end may go at any moment
        while piece := await reader.read(_READ_BYTES):
            writer.write(piece)
            await writer.drain()
    writer.close()
