"""How long a server's event loop keeps a client waiting, whatever else the machine does.

The client is a process of its own. What it and the server's thread waited for a processor is not
counted, as the kernel notes it (/proc/PID/schedstat): that is the machine's, and not the server's.
Where both wait at once it is taken off twice, so figures are those of a machine that is quiet.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import httpx

from tests.support.serving import PLAIN

_EVERY_S = 0.002


class Server(Protocol):
    url: str
    process: subprocess.Popen[bytes]
    """That serves; its main thread runs the loop."""


def waits(server: Server, work: Callable[[], object]) -> list[float]:
    """Seconds for each answer while `work` runs, in order of length."""
    command = [sys.executable, "-m", __name__, server.url, str(server.process.pid)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as probe:
        assert probe.stdin is not None
        assert probe.stdout is not None
        assert probe.stdout.readline() == b"begun\n"
        try:
            work()
        finally:
            probe.stdin.close()
        return sorted(json.loads(probe.stdout.read()))


def longest(server: Server, work: Callable[[], object]) -> float:
    return waits(server, work)[-1]


class Clock:
    """Stands still while the server's main thread, or this one, waits for a processor."""

    def __init__(self, server: Server) -> None:
        self._pid = str(server.process.pid)
        self._waited, self._began = _waited_for_processor(self._pid), time.perf_counter()

    @property
    def seconds(self) -> float:
        waited = _waited_for_processor(self._pid) - self._waited
        return max(0.0, time.perf_counter() - self._began - waited)


def _waited_for_processor(server: str) -> float:
    """Seconds, of the server's main thread and of this one."""
    return sum(
        int(Path(f"/proc/{who}/schedstat").read_text().split()[1]) / 1e9
        for who in (server, "thread-self")
    )


def _probe(url: str, pid: str) -> None:
    seen = []
    with httpx.Client(base_url=url, timeout=60, verify=PLAIN) as client:
        client.get("/livez")
        print("begun", flush=True)
        while not select.select([sys.stdin], [], [], _EVERY_S)[0]:
            waited, began = _waited_for_processor(pid), time.perf_counter()
            assert client.get("/livez").status_code == 200
            took = time.perf_counter() - began
            seen.append(max(0.0, took - (_waited_for_processor(pid) - waited)))
    print(json.dumps(seen))


if __name__ == "__main__":
    _probe(*sys.argv[1:])
