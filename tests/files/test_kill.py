"""A file that a client was told of is there whole, whenever the server is killed.

FILES_KILLS=10 pytest tests/files/test_kill.py -s        as in the figures
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from app.files.storage import folder_of
from tests.live.conftest import ROOT
from tests.support import processes
from tests.support.serving import PLAIN, eventually

KILLS = int(os.environ.get("FILES_KILLS", "3"))
AT_A_TIME = 4
BETWEEN = 5
"""Files that are kept between two kills."""
SIZES = (1, 300_000, 2_000_000, 7_000_000)
pytestmark = pytest.mark.timeout(900)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Killed:
    """A server that is killed and started anew while clients go on uploading."""

    def __init__(self, folder: Path, path: str) -> None:
        self.folder, self.port = folder, _free_port()
        self.environment = {
            **os.environ, "ENGINE": "scripted", "HOST": "127.0.0.1", "PORT": str(self.port),
            "LOG_FILE": "", "FILE_STORAGE_PATH": path,
            "STORE_URL": f"sqlite:///{folder}/store.sqlite3",
        }  # fmt: skip
        self.told: dict[str, str] = {}
        """Id of a file -> digest of what was sent."""
        self.lost = 0
        self.over = False

    def start(self) -> None:
        with (self.folder / "log").open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "serve_hathora.py")],
                env=self.environment, cwd=self.folder, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip

    async def client(self, http: httpx.AsyncClient, seed: int) -> None:
        draw = random.Random(seed)
        while not self.over:
            content = draw.randbytes(draw.choice(SIZES))
            digest = hashlib.sha256(content).hexdigest()
            files = {"file": (digest, content)}
            try:
                answer = await http.post("/v1/files", files=files, data={"purpose": "batch"})
            except httpx.HTTPError:
                self.lost += 1
                await asyncio.sleep(0.05)  # it is being started anew
                continue
            if answer.status_code == 503:  # not ready yet
                await asyncio.sleep(0.05)
                continue
            assert answer.status_code == 200, answer.text
            self.told[answer.json()["id"]] = digest

    async def kills(self) -> None:
        for no in range(KILLS):
            await eventually(lambda no=no: len(self.told) > (no + 1) * BETWEEN)
            await asyncio.sleep(random.Random(no).random() * 0.05)  # in the midst of one
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.start()
        await eventually(lambda: len(self.told) > (KILLS + 1) * BETWEEN)
        self.over = True


async def _ready(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/readyz")).status_code == 200
    except httpx.HTTPError:
        return False


async def test_every_file_that_a_client_was_told_of_is_there_whole_over_kills(
    tmp_path: Path, path: str, contents: Callable[[], list[str]]
) -> None:
    server = Killed(tmp_path, path)
    server.start()
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{server.port}", timeout=60, verify=PLAIN
        ) as http:
            clients = [server.client(http, seed) for seed in range(AT_A_TIME)]
            await asyncio.gather(server.kills(), *clients)
            await eventually(lambda: _ready(http))  # the last kill may have been the last event
            listed = {file["id"]: file for file in (await http.get("/v1/files")).json()["data"]}
            assert server.told.keys() <= listed.keys()
            for id, file in listed.items():  # a few more: their clients were not told any more
                content = (await http.get(f"/v1/files/{id}/content")).content
                assert len(content) == file["bytes"]
                assert hashlib.sha256(content).hexdigest() == file["filename"]
            before = len([each for each in contents() if each != "part"])
            kept = [each for each in contents() if "arriving" not in each and each != "part"]
            assert len(kept) >= len(listed)
            # Claims of uploads that were killed last half a minute.
            await eventually(
                lambda: len([each for each in contents() if each != "part"]) == len(listed),
                timeout_s=120,
            )
        print(
            f"{'folder' if folder_of(path) else 'bucket'}: {len(server.told)} files kept over "
            f"{KILLS} kills, {server.lost} requests cut off; {before - len(listed)} were left, and "
            "swept"
        )
        assert server.lost
    finally:
        processes.stop(server.process)
