"""A reader of the log that stops cannot stop the engine."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.live.conftest import LiveServer

pytestmark = pytest.mark.live

REQUESTS = 400
"""Two lines of ours and one of SGLang's each: several times what a pipe holds."""


def test_a_log_reader_that_stops_does_not_stop_the_engine(start: Callable[..., LiveServer]) -> None:
    server = start(unread=True, LOG_LEVEL="info").ready()
    for no in range(REQUESTS):
        body = {"prompt": f"request {no}", "max_tokens": 2}
        assert server.http.post("/v1/completions", json=body, timeout=60).status_code == 200
    assert server.unread_bytes > 60_000
    server.process.terminate()
    assert server.exit_code(60) == 0
