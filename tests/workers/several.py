"""A server of several processes, and streams that reach each of them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.support import processes, sse
from tests.support.serving import HANGS_S, PLAIN, eventually

SERVER = Path(__file__).parents[2] / "serve_hathora.py"

LONG = '{"words": 2000, "token_s": 0.05}'
"""`ENGINE_ARGS` for answers that a test cuts: however slow the machine is, none ends before."""
KEY = {"authorization": "Bearer operator"}


class Several:
    """A server of several processes: the parent, and what it started."""

    def __init__(self, folder: Path, **environment: str) -> None:
        folder.mkdir()
        self._out = folder / "out.log"
        self.files = folder / "tmp"
        self.files.mkdir()
        self._parsed: list[dict[str, Any]] = []
        self._read_to = 0
        settings = {
            "TOKENIZER_WORKERS": "2", "HOST": "127.0.0.1", "PORT": "0", "LOG_FORMAT": "json",
            "ADMIN_API_KEY": "operator", "TMPDIR": str(self.files), "ENGINE": "scripted",
            "ENGINE_ARGS": '{"words": 51, "token_s": 0.05}', **environment,
        }  # fmt: skip
        with self._out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(SERVER)], env={**os.environ, **settings}, cwd=folder,
                stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    @property
    def log(self) -> list[dict[str, Any]]:
        """Its complete lines of JSON."""
        with self._out.open("rb") as file:
            file.seek(self._read_to)
            complete, newline, _ = file.read().rpartition(b"\n")
        self._read_to += len(complete + newline)
        lines = complete.decode(errors="replace").split("\n")
        self._parsed += [json.loads(line) for line in lines if line.startswith("{")]
        return self._parsed

    @property
    def text(self) -> str:
        return self._out.read_text(errors="replace")

    async def logged(self, event: str, **fields: Any) -> dict[str, Any]:
        """Wait for an event in the log; returns its first line."""
        while True:
            for line in self.log:
                if line["event"] == event and fields.items() <= line.items():
                    return line
            assert self.process.poll() is None, self.text[-3000:]
            await asyncio.sleep(0.01)

    async def listening(self) -> Several:
        self.url = f"http://127.0.0.1:{(await self.logged('listening'))['port']}"
        self.family = [self.process.pid, *(each.pid for each in self.children())]
        return self

    async def ready(self) -> Several:
        await self.listening()
        await self.logged("phase", phase="ready")
        return self

    def children(self) -> list[psutil.Process]:
        """The serving processes."""
        children = psutil.Process(self.process.pid).children()
        return [each for each in children if "--process" in processes.command_line(each)]

    async def get(self, path: str) -> httpx.Response:
        """Get on a new connection, so that any of the processes may answer."""
        async with httpx.AsyncClient(base_url=self.url, timeout=20, verify=PLAIN) as client:
            return await client.get(path, headers=KEY)

    async def exit_code(self, within_s: float = HANGS_S) -> int:
        return await asyncio.to_thread(self.process.wait, within_s)

    async def nothing_is_left(self) -> None:
        await eventually(lambda: not any(map(psutil.pid_exists, self.family)))
        assert not list(self.files.glob("serve-*"))

    def stop(self) -> None:
        processes.kill(self.process)


class Streams:
    """Streams, each on its own connection, opened one by one until each process has some."""

    def __init__(self, server: Several) -> None:
        self._server = server
        self.by_process: dict[int, list[str]] = {0: [], 1: []}
        self.refused = 0
        self._tasks: list[asyncio.Task[str]] = []

    async def open(self) -> Streams:
        async with asyncio.timeout(HANGS_S):
            while not all(self.by_process.values()):
                name = f"stream-{len(self._tasks)}"
                self._tasks.append(asyncio.create_task(self._read(name)))
                line = await self._server.logged("request started", request_id=name)
                self.by_process[line["process"]].append(name)
        return self

    async def _read(self, name: str) -> str:
        body = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
        async with (
            httpx.AsyncClient(base_url=self._server.url, timeout=HANGS_S, verify=PLAIN) as client,
            client.stream(
                "POST", "/v1/chat/completions", json=body,
                headers={"x-request-id": name, "authorization": "Bearer operator"},
            ) as answer,
        ):  # fmt: skip
            text = "".join([piece async for piece in answer.aiter_text()])
            self.refused += answer.status_code == 503
            return text if answer.status_code == 200 else ""

    def __len__(self) -> int:
        return len(self._tasks)

    async def answers(self) -> list[list[Any]]:
        """Frames of each stream; none for a stream that was refused or whose process ended."""
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        texts = ["" if isinstance(each, httpx.TransportError) else each for each in results]
        return [sse.frames(text) if text else [] for text in texts]
