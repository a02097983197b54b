"""The two processes: the server that is measured, and the load client."""

from __future__ import annotations

import asyncio
import dataclasses
import http.client
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import orjson
import psutil

from bench.layer.client import Figures, Load, allow_files

_ROOT = Path(__file__).parents[2]
_STARTED_WITHIN_S = 60.0
_MAX_REQUESTS = 4096


class Server:
    """The serving process: the real uvicorn and application, logging as in production."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.port = port
        self._process = process
        self._measured = psutil.Process(process.pid)

    @classmethod
    @asynccontextmanager
    async def started(cls, port: int, *, step_s: float = 0.0) -> AsyncIterator[Self]:
        allow_files(_MAX_REQUESTS)  # children inherit it
        with tempfile.TemporaryDirectory(prefix="layer-") as folder:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "serve_hathora.py", "--engine", "scripted", "--host", "127.0.0.1",
                "--port", str(port),
                "--max-concurrency", str(_MAX_REQUESTS), "--max-queue", str(_MAX_REQUESTS),
                "--log-level", "info", "--log-file", f"{folder}/server.log",
                "--engine-arg", f"step_s={step_s}",
                cwd=_ROOT, stdout=asyncio.subprocess.DEVNULL, env={**os.environ, "TMPDIR": folder},
            )  # fmt: skip
            server = cls(process, port)
            try:
                await server._ready()
                yield server
            finally:
                if process.returncode is None:
                    process.send_signal(signal.SIGTERM)
                await process.wait()

    @property
    def cpu_s(self) -> float:
        """User and system time of all its threads."""
        times = self._measured.cpu_times()
        return times.user + times.system

    @property
    def rss_bytes(self) -> int:
        return int(self._measured.memory_info().rss)

    async def in_flight(self) -> int:
        return int(await asyncio.to_thread(self._gauge, "serve_in_flight_requests"))

    async def idle(self) -> None:
        """Wait until no request is in flight. Raises TimeoutError if one never ends."""
        async with asyncio.timeout(10):
            while True:
                if not await self.in_flight():
                    return
                await asyncio.sleep(0.1)

    async def _ready(self) -> None:
        until = time.monotonic() + _STARTED_WITHIN_S
        while not await asyncio.to_thread(self._answers):
            if self._process.returncode is not None or time.monotonic() > until:
                raise RuntimeError(f"the server did not start (exit {self._process.returncode})")
            await asyncio.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return self._get("/readyz")[0] == 200
        except ConnectionRefusedError:
            return False

    def _gauge(self, name: str) -> float:
        lines = self._get("/metrics")[1].splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])

    def _get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return answer.status, body


async def run(load: Load) -> Figures:
    """Run the load in a process of its own. Raises RuntimeError if an answer was wrong."""
    client = await _client(load)
    output, _ = await client.communicate()
    if client.returncode != 0:
        raise RuntimeError("the client received a wrong answer")
    return Figures(**orjson.loads(output))


@asynccontextmanager
async def held(load: Load) -> AsyncIterator[None]:
    """All streams of the load are open inside; on leaving, their client disconnects."""
    client = await _client(load, "--hold")
    assert client.stdout is not None
    assert client.stdin is not None
    try:
        if await client.stdout.readline() != b"open\n":
            raise RuntimeError("the streams could not be opened")
        yield
    finally:
        client.stdin.close()
        await client.wait()


async def _client(load: Load, *options: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.layer.client",
        orjson.dumps(dataclasses.asdict(load)).decode(), *options,
        cwd=_ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
