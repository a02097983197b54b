"""The load client: many streams at once over kept connections, each answer checked in full.

An asyncio protocol and no HTTP library: an answer is collected, and checked once it is complete, so
the client costs a tenth of the server. Run as a program it prints its figures as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import orjson
import uvloop

from app.engine.stepped import numbered_words
from bench.layer.answers import END, OK, Broken, check, check_beginning

_CHECKED_FULLY = 50
"""One of so many answers has each of its frames parsed."""
_DISCONNECT_EVERY = 10
_REPORT_EVERY_S = 10.0
_SILENCE_S = 60.0
"""After so long without a byte, the load has failed."""


@dataclass(frozen=True)
class Load:
    port: int
    streams: int
    """At a time; each has its own connection, which its next request reuses."""
    requests: int
    tokens: tuple[int, int]
    """Fewest and most of one answer; the requests cycle through all numbers between."""
    leave: bool = False
    """The client of every tenth request disconnects in the middle of its answer."""
    path: str = "/v1/chat/completions"


@dataclass
class Figures:
    finished: int = 0
    left: int = 0
    """Answers whose client disconnected."""
    tokens: int = 0
    """Tokens of the finished answers; so are `frames` and `size_bytes`."""
    frames: int = 0
    size_bytes: int = 0
    connections: int = 0
    reads: int = 0
    open: int = 0
    most_open: int = 0
    """The most streams that had begun and not ended at the same time."""
    seconds: float = 0.0
    client_cpu_s: float = 0.0


@dataclass(frozen=True)
class Request:
    """One request of the load, made from its number."""

    no: int
    load: Load

    @property
    def tokens(self) -> int:
        fewest, most = self.load.tokens
        return fewest + self.no * 7 % (most - fewest + 1)

    @property
    def first(self) -> int:
        """Its words are numbered from here: another number than its neighbours'."""
        return self.no % 4096 * 1000

    @property
    def text(self) -> str:
        return numbered_words(self.first, self.tokens)

    @property
    def disconnects(self) -> bool:
        return self.load.leave and self.no % _DISCONNECT_EVERY == _DISCONNECT_EVERY - 1

    @property
    def raw(self) -> bytes:
        prompt = f"{self.first:>32}"
        body: dict[str, object] = {"model": "default", "max_tokens": self.tokens, "stream": True}
        if "chat" in self.load.path:
            body["messages"] = [{"role": "user", "content": prompt}]
        else:
            body["prompt"] = prompt
        content = orjson.dumps(body)
        return (
            b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b"
        ) % (self.load.path.encode(), len(content), content)


class Connection(asyncio.Protocol):
    """One request at a time; `send` returns its whole answer, or the beginning of it."""

    transport: asyncio.Transport

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self._received = bytearray()
        self._answer: asyncio.Future[bytes] | None = None
        self._until: int | None = None
        self._begun = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's has no such base
        self._figures.connections += 1

    async def send(self, request: bytes, *, until_frame: int | None = None) -> bytes:
        """Return the answer; with `until_frame` its beginning, once so many frames have arrived.

        Raises Broken.
        """
        if self._received:
            raise Broken(f"between two answers came {bytes(self._received[:200])!r}")
        self._begun, self._until = False, until_frame
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        try:
            return await self._answer
        finally:
            self._answer = None
            self._received.clear()
            self._figures.open -= self._begun

    def data_received(self, data: bytes) -> None:
        self._figures.reads += 1
        self._received += data
        if not self._begun and self._answer is not None:
            self._begun = True
            self._figures.open += 1
            self._figures.most_open = max(self._figures.most_open, self._figures.open)
        if self._answer is None or self._answer.done():
            return
        if (
            self._received.endswith(END)
            or (self._until is not None and self._received.count(b"data: ") >= self._until)
            or not self._received.startswith(OK[: len(self._received)])  # its end has another form
        ):
            self._answer.set_result(bytes(self._received))

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Broken(f"its connection was lost: {error or 'closed'}"))


class Client:
    """Runs one load. Raises Broken with the number of the first answer that is wrong."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._requests: Iterator[int] = iter(range(load.requests))
        self.figures = Figures()

    async def run(self) -> Figures:
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        count = min(self._load.streams, self._load.requests)
        connections = [await self._connect() for _ in range(count)]
        try:
            async with asyncio.timeout(_SILENCE_S) as patience:
                reporting = asyncio.create_task(self._report(patience))
                async with asyncio.TaskGroup() as lanes:
                    for connection in connections:
                        lanes.create_task(self._lane(connection))
        except TimeoutError:
            raise Broken(f"nothing has come for {_SILENCE_S:g} s; {self._progress()}") from None
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            reporting.cancel()
        self.figures.seconds = time.perf_counter() - began_s
        self.figures.client_cpu_s = time.process_time() - began_cpu_s
        return self.figures

    async def hold(self, opened: asyncio.Event, enough: asyncio.Event) -> None:
        """Open all streams at once, keep them open until `enough` is set, then disconnect them."""
        connections = [await self._connect() for _ in range(self._load.streams)]
        async with asyncio.TaskGroup() as group:
            for no, connection in enumerate(connections):
                group.create_task(connection.send(Request(no, self._load).raw, until_frame=2))
        opened.set()
        await enough.wait()
        for connection in connections:
            connection.transport.abort()

    async def _lane(self, connection: Connection) -> None:
        """One stream after the other, on one connection until the client disconnects it."""
        for no in self._requests:
            request = Request(no, self._load)
            try:
                if request.disconnects:
                    await self._disconnect(request, connection)
                    connection = await self._connect()
                else:
                    await self._finish(request, connection)
            except Broken as error:
                raise Broken(f"answer {no}: {error}") from None
        connection.transport.close()

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: Connection(self.figures), "127.0.0.1", self._load.port
        )
        return connection

    async def _finish(self, request: Request, connection: Connection) -> None:
        raw = await connection.send(request.raw)
        fully = request.no % _CHECKED_FULLY == 0
        size = check(raw, request.text, fully=fully)
        self.figures.finished += 1
        self.figures.tokens += request.tokens
        self.figures.frames += size.frames
        self.figures.size_bytes += size.size_bytes

    async def _disconnect(self, request: Request, connection: Connection) -> None:
        raw = await connection.send(request.raw, until_frame=max(1, request.tokens // 2))
        check_beginning(raw, request.text)
        if request.no % (2 * _DISCONNECT_EVERY) > _DISCONNECT_EVERY:
            connection.transport.abort()  # a reset
        else:
            connection.transport.close()  # in order
        self.figures.left += 1

    async def _report(self, patience: asyncio.Timeout) -> None:
        """Print the progress, and extend the patience as long as bytes arrive."""
        reads = 0
        while True:
            await asyncio.sleep(_REPORT_EVERY_S)
            print(f"  {self._progress()}", file=sys.stderr, flush=True)
            if self.figures.reads > reads:
                reads = self.figures.reads
                patience.reschedule(asyncio.get_running_loop().time() + _SILENCE_S)

    def _progress(self) -> str:
        return f"{self.figures.finished + self.figures.left} of {self._load.requests} answers"


def allow_files(count: int) -> None:
    """Raise this process's limit of open files, as far as it is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))


async def _hold(client: Client) -> None:
    """Print `open` once all streams are open; disconnect when stdin ends."""
    opened, enough = asyncio.Event(), asyncio.Event()
    holding = asyncio.create_task(client.hold(opened, enough))
    asyncio.get_running_loop().add_reader(sys.stdin, enough.set)
    await opened.wait()
    print("open", flush=True)
    await holding


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("load", type=orjson.loads, help="a Load as a JSON object")
    parser.add_argument("--hold", action="store_true")
    options = parser.parse_args()
    load = Load(**options.load | {"tokens": tuple(options.load["tokens"])})
    allow_files(load.streams + 100)
    client = Client(load)
    if options.hold:
        uvloop.run(_hold(client))
        return
    try:
        figures = uvloop.run(client.run())
    except Broken as error:
        sys.exit(f"broken: {error}")
    print(orjson.dumps(dataclasses.asdict(figures)).decode())


if __name__ == "__main__":
    main()
