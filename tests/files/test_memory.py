"""An upload of any size takes the same memory, and the event loop goes on meanwhile.

FILES_UPLOAD_MB=2048 pytest tests/files/test_memory.py -s    as in the figures; a bucket of such a
size needs another server than moto's: S3_ENDPOINT.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import psutil
import pytest

from app.files.storage import folder_of
from tests.files.test_kill import _free_port, _ready
from tests.live.conftest import ROOT
from tests.support import processes
from tests.support.machine import allowed
from tests.support.serving import PLAIN, eventually

MB = 2**20
SIZE_MB = int(os.environ.get("FILES_UPLOAD_MB", "64"))
HEAD = (
    b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
)
TAIL = b"\r\n--b--\r\n"
pytestmark = pytest.mark.timeout(1800)


async def _sent(size_mb: int) -> AsyncIterator[bytes]:
    yield HEAD
    piece = os.urandom(MB)
    for _ in range(size_mb):
        yield piece
    yield TAIL


async def test_a_large_file_goes_up_and_down_in_little_memory(tmp_path: Path, path: str) -> None:
    port = _free_port()
    process = _started(port, tmp_path, path)
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=600, verify=PLAIN
        ) as http:
            await eventually(lambda: _ready(http))
            await _up(http, 1)  # what the first one imports
            watched = _Watched(psutil.Process(process.pid), http)
            began = time.monotonic()
            async with watched:
                id = await _up(http, SIZE_MB)
            up_s, began = time.monotonic() - began, time.monotonic()
            received = 0
            async with watched, http.stream("GET", f"/v1/files/{id}/content") as answer:
                async for piece in answer.aiter_raw():
                    received += len(piece)
            down_s = time.monotonic() - began
            assert received == SIZE_MB * MB
        print(
            f"{'folder' if folder_of(path) else 'bucket'}: {SIZE_MB} MB up in {up_s:.1f} s, down "
            f"in {down_s:.1f} s; {watched.grown / MB:.0f} MB of memory more; the longest wait of "
            f"/livez {watched.longest_s * 1e3:.0f} ms"
        )
        assert watched.grown < 60 * MB
        assert watched.longest_s < allowed(1.0)
    finally:
        processes.stop(process)


def _started(port: int, folder: Path, path: str) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ, "ENGINE": "scripted", "HOST": "127.0.0.1", "PORT": str(port), "LOG_FILE": "",
        "FILE_STORAGE_PATH": path, "FILE_MAX_BYTES": str((SIZE_MB + 1) * MB),
        "STORE_URL": f"sqlite:///{folder}/store.sqlite3",
    }  # fmt: skip
    with (folder / "log").open("wb") as out:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "serve_hathora.py")],
            env=environment, cwd=folder, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip


async def _up(http: httpx.AsyncClient, size_mb: int) -> str:
    length = len(HEAD) + size_mb * MB + len(TAIL)
    answer = await http.post(
        "/v1/files",
        content=_sent(size_mb),
        headers={"content-type": "multipart/form-data; boundary=b", "content-length": str(length)},
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["bytes"] == size_mb * MB
    return str(answer.json()["id"])


class _Watched:
    """The server's memory beyond what it had, and how long it lets a probe wait."""

    def __init__(self, process: psutil.Process, http: httpx.AsyncClient) -> None:
        self._process, self._http = process, http
        self._before = process.memory_info().rss
        self.grown, self.longest_s = 0, 0.0

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._watch())

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _watch(self) -> None:
        while True:
            self.grown = max(self.grown, self._process.memory_info().rss - self._before)
            began = time.perf_counter()
            assert (await self._http.get("/livez")).status_code == 200
            self.longest_s = max(self.longest_s, time.perf_counter() - began)
            await asyncio.sleep(0.02)
