"""What a client has seen complete is kept, whenever the server is killed.

STORE_KILLS=10 STORE_RESPONSES=1000 pytest tests/store/test_kill.py        as in the figures
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.dialects.openai.responses.replay import Json, events_of
from tests.live.conftest import ROOT
from tests.support import processes
from tests.support.serving import PLAIN, eventually

KILLS = int(os.environ.get("STORE_KILLS", "2"))
RESPONSES = int(os.environ.get("STORE_RESPONSES", "150"))
AT_A_TIME = 8


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Killed:
    """A server that is killed and started anew while clients go on asking."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.port = folder, _free_port()
        self.environment = {
            **os.environ, "ENGINE": "scripted", "HOST": "127.0.0.1", "PORT": str(self.port),
            "LOG_FILE": "", "STORE_URL": url,
        }  # fmt: skip
        self.seen: dict[str, Json] = {}
        self.lost = 0

    def start(self) -> None:
        with (self.folder / "log").open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "serve_hathora.py")],
                env=self.environment, cwd=self.folder, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip

    async def client(self, http: httpx.AsyncClient) -> None:
        body = {"model": "default", "input": "tell me", "stream": True, "max_output_tokens": 30}
        previous = None
        while len(self.seen) < RESPONSES:
            try:
                answer = await http.post(
                    "/v1/responses", json={**body, "previous_response_id": previous}
                )
            except httpx.HTTPError:
                self.lost += 1
                await asyncio.sleep(0.05)  # it is being started anew
                continue
            if answer.status_code == 503:  # not ready yet
                await asyncio.sleep(0.05)
                continue
            assert answer.status_code == 200, answer.text
            response = events_of(answer.text)[-1]["response"]
            assert response["store"] is True
            self.seen[response["id"]] = response
            previous = response["id"] if len(self.seen) % 10 else None

    async def kills(self) -> None:
        for no in range(KILLS):
            await eventually(lambda no=no: len(self.seen) > (no + 1) * RESPONSES // (KILLS + 1))
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.start()


async def test_all_that_a_client_has_seen_complete_is_kept_over_kills(
    tmp_path: Path, url: str
) -> None:
    server = Killed(tmp_path, url)
    server.start()
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{server.port}", timeout=30, verify=PLAIN
        ) as http:
            await asyncio.gather(server.kills(), *[server.client(http) for _ in range(AT_A_TIME)])
            for id, response in server.seen.items():
                kept = await http.get(f"/v1/responses/{id}")
                assert kept.status_code == 200, (id, kept.text)
                assert kept.json() == response
                items = (await http.get(f"/v1/responses/{id}/input_items")).json()["data"]
                assert items[0]["content"][0]["text"] == "tell me"
        print(f"{len(server.seen)} responses kept over {KILLS} kills; {server.lost} were cut off")
        assert server.lost
    finally:
        processes.stop(server.process)


pytestmark = pytest.mark.timeout(600)
