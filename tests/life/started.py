"""A server with the scripted engine, as a process of its own."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx

from tests.support.serving import HANGS_S, PLAIN, eventually

SERVER = Path(__file__).parents[2] / "serve_hathora.py"


class Started:
    """A server with the scripted engine."""

    def __init__(
        self, folder: Path, *before: str, program: tuple[str, ...] = (str(SERVER),), **settings: str
    ) -> None:
        """`before`: a command that runs the server, such as `nohup`. `program`: for Python."""
        self.files = folder / "tmp"
        self.files.mkdir(parents=True)
        self._out = folder / "out.log"
        environment = {
            "ENGINE": "scripted", "ENGINE_ARGS": '{"words": 20, "token_s": 0.05}', "PORT": "0",
            "HOST": "127.0.0.1", "TMPDIR": str(self.files), "LOG_FILE": "", **settings,
        }  # fmt: skip
        with self._out.open("wb") as out:
            self.process = subprocess.Popen(
                [*before, sys.executable, *program], env={**os.environ, **environment},
                cwd=folder, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    @property
    def folders(self) -> list[Path]:
        return list(self.files.iterdir())

    async def ready(self) -> httpx.AsyncClient:
        await eventually(lambda: "ready" in self._out.read_text())
        port = re.search(r"port\W+(\d+)", self._out.read_text())
        assert port is not None
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port[1]}", verify=PLAIN)

    async def exit_code(self) -> int:
        return await asyncio.to_thread(self.process.wait, HANGS_S)


Start = Callable[..., Started]
