"""The load: so many streams at once over kept connections, each answer checked to the last byte.

An asyncio protocol and no HTTP library: what arrives is gathered, and looked at once it is whole,
so that the client costs a tenth of the server. Run by itself it prints its figures as JSON.
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

from app.engine.scripted import numbered_words
from bench.layer.answers import END, OK, Broken, check, check_beginning

_CHECKED_FULLY = 50
"""Of so many answers one has each of its frames parsed."""
_LEAVES = 10
_REPORT_EVERY_S = 10.0
_SILENCE_S = 60.0
"""Without a byte for so long, the rest will never come."""


@dataclass(frozen=True)
class Load:
    port: int
    streams: int
    """At a time; each has a connection of its own, used again for its next request."""
    requests: int
    tokens: tuple[int, int]
    """Fewest and most of one answer; the requests go through all between, again and again."""
    leave: bool = False
    """Every tenth request is left in the middle of its answer."""
    path: str = "/v1/chat/completions"


@dataclass
class Figures:
    finished: int = 0
    left: int = 0
    tokens: int = 0
    """Of the answers that were finished; so the frames."""
    frames: int = 0
    size_bytes: int = 0
    connections: int = 0
    reads: int = 0
    open: int = 0
    most_open: int = 0
    """Streams that had begun and not ended, at the same time."""
    seconds: float = 0.0
    client_cpu_s: float = 0.0


@dataclass(frozen=True)
class Request:
    """One of the load, by its number."""

    no: int
    load: Load

    @property
    def tokens(self) -> int:
        fewest, most = self.load.tokens
        return fewest + self.no * 7 % (most - fewest + 1)

    @property
    def first(self) -> int:
        """What its words are counted from: another number than its neighbours'."""
        return self.no % 4096 * 1000

    @property
    def text(self) -> str:
        return numbered_words(self.first, self.tokens)

    @property
    def leaves(self) -> bool:
        return self.load.leave and self.no % _LEAVES == _LEAVES - 1

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
    """One request at a time; `ask` gives its whole answer, or the beginning of it."""

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

    async def ask(self, request: bytes, *, until_frame: int | None = None) -> bytes:
        """With `until_frame` as soon as so many frames are there, or the answer has ended before.

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
            or not self._received.startswith(OK[: len(self._received)])  # whose end is elsewhere
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
            raise Broken(f"nothing has come for {_SILENCE_S:g} s; {self._told()}") from None
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            reporting.cancel()
        self.figures.seconds = time.perf_counter() - began_s
        self.figures.client_cpu_s = time.process_time() - began_cpu_s
        return self.figures

    async def hold(self, opened: asyncio.Event, enough: asyncio.Event) -> None:
        """Open all streams at once, keep them open until it is `enough`, leave them all."""
        connections = [await self._connect() for _ in range(self._load.streams)]
        async with asyncio.TaskGroup() as group:
            for no, connection in enumerate(connections):
                group.create_task(connection.ask(Request(no, self._load).raw, until_frame=2))
        opened.set()
        await enough.wait()
        for connection in connections:
            connection.transport.abort()

    async def _lane(self, connection: Connection) -> None:
        """One stream after the other, on one connection until it is left."""
        for no in self._requests:
            request = Request(no, self._load)
            try:
                if request.leaves:
                    await self._leave(request, connection)
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
        raw = await connection.ask(request.raw)
        fully = request.no % _CHECKED_FULLY == 0
        seen = check(raw, request.text, fully=fully)
        self.figures.finished += 1
        self.figures.tokens += request.tokens
        self.figures.frames += seen.frames
        self.figures.size_bytes += seen.size_bytes

    async def _leave(self, request: Request, connection: Connection) -> None:
        raw = await connection.ask(request.raw, until_frame=max(1, request.tokens // 2))
        check_beginning(raw, request.text)
        if request.no % (2 * _LEAVES) > _LEAVES:
            connection.transport.abort()  # a reset
        else:
            connection.transport.close()  # a farewell
        self.figures.left += 1

    async def _report(self, patience: asyncio.Timeout) -> None:
        """Say how far it is, and wait on as long as anything comes."""
        reads = 0
        while True:
            await asyncio.sleep(_REPORT_EVERY_S)
            print(f"  {self._told()}", file=sys.stderr, flush=True)
            if self.figures.reads > reads:
                reads = self.figures.reads
                patience.reschedule(asyncio.get_running_loop().time() + _SILENCE_S)

    def _told(self) -> str:
        return f"{self.figures.finished + self.figures.left} of {self._load.requests} answers"


def allow_files(count: int) -> None:
    """Raise this process's bound on open files, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))


async def _hold(client: Client) -> None:
    """Say `open` on stdout; leave when stdin ends."""
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
    given = parser.parse_args()
    load = Load(**given.load | {"tokens": tuple(given.load["tokens"])})
    allow_files(load.streams + 100)
    client = Client(load)
    if given.hold:
        uvloop.run(_hold(client))
        return
    try:
        figures = uvloop.run(client.run())
    except Broken as error:
        sys.exit(f"broken: {error}")
    print(orjson.dumps(dataclasses.asdict(figures)).decode())


if __name__ == "__main__":
    main()
