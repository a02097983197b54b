"""A worker that a platform freezes and thaws serves on: no client is lost that could be kept.

python -m pytest tests/live/test_freeze.py -rP     FREEZE_S=600 for ten minutes
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import httpx
import psutil
import pytest

from tests.live.conftest import LiveServer
from tests.live.test_life_and_death import HANGS_S, Streams, story
from tests.support import sse
from tests.support.machine import allowed

pytestmark = pytest.mark.live
FROZEN_S = float(os.environ.get("FREEZE_S", "12"))
QUESTION = {
    "messages": [{"role": "user", "content": "Say hello."}],
    "max_tokens": 2,
    "temperature": 0,
}


@pytest.mark.timeout(FROZEN_S + 300)
def test_after_a_freeze_streams_go_on_and_the_next_answer_comes_within_a_second(
    start: Callable[..., LiveServer],
) -> None:
    server = start(
        ENGINE_STALL_TIMEOUT="4", REQUEST_TIMEOUT="60", HEARTBEAT_INTERVAL="2", BODY_TIMEOUT="5"
    ).ready()
    before = _answer(server)
    streams = Streams(server, [story(200)] * 4, silent_s=FROZEN_S + HANGS_S)
    streams.wait_begun(4)
    tree = [psutil.Process(server.process.pid), *server.children()]
    for process in tree:
        process.send_signal(signal.SIGSTOP)
    time.sleep(FROZEN_S)  # what is looked at is what time does
    for process in reversed(tree):
        process.send_signal(signal.SIGCONT)
    thawed = time.monotonic()
    after = _answer(server)
    took_s = time.monotonic() - thawed
    print(f"frozen for {FROZEN_S:g} s: the first answer after {took_s:.2f} s")
    assert after == before
    for result in streams.join():
        assert sse.frames(result["text"])[-1] == "[DONE]"
        assert '"error"' not in result["text"]
    assert "stood still" in server.log
    server.process.send_signal(signal.SIGTERM)
    assert server.exit_code(within_s=30) == 0
    assert took_s < allowed(1)


def _answer(server: LiveServer) -> str:
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=QUESTION, timeout=HANGS_S)
    assert answer.status_code == 200, answer.text
    content: str = answer.json()["choices"][0]["message"]["content"]
    return content
