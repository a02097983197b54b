"""Starts servers of the test's own, and ends them after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.life.started import Start, Started
from tests.support import processes


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    servers: list[Started] = []

    def begin(*before: str, **settings: str) -> Started:
        servers.append(Started(tmp_path / str(len(servers)), *before, **settings))
        return servers[-1]

    yield begin
    for server in servers:
        processes.kill(server.process)
