"""Any process killed under load, the endpoint is removed: many rounds with the real engine.

    KILL_ROUNDS=10 python -m pytest tests/live/test_network.py -rP     20 starts, a minute each

One such end is part of test_life_and_death.py; tests/hathora/ kills scripted servers.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import psutil
import pytest

from tests.live.conftest import LiveServer, registered
from tests.live.test_life_and_death import ENDLESS, Streams, story
from tests.support.compute import GROUP, FakeCompute
from tests.support.machine import allowed

pytestmark = pytest.mark.live
ROUNDS = int(os.environ.get("KILL_ROUNDS", "0"))
WITHIN_S = 5.0


@pytest.mark.skipif(ROUNDS == 0, reason="a minute each: KILL_ROUNDS says how many")
@pytest.mark.parametrize("round_", range(ROUNDS or 1))
@pytest.mark.parametrize(
    ("victim", "code"), [("sglang::scheduler", 70), ("serving", 128 + signal.SIGKILL)]
)
def test_the_endpoint_is_removed_within_five_seconds_of_any_kill_under_load(
    start: Callable[..., LiveServer], fake: FakeCompute, victim: str, code: int, round_: int
) -> None:
    server = registered(start(**fake.environ()).ready(), fake)
    streams = Streams(server, [story(ENDLESS)] * 8)
    streams.wait_begun(8)
    family = [each.pid for each in server.children()]
    serving = psutil.Process(server.process.pid).children()[0]
    killed = time.monotonic()
    (serving if victim == "serving" else server.child(victim)).kill()
    while fake.endpoints[GROUP]:
        assert time.monotonic() - killed < allowed(WITHIN_S)
        time.sleep(0.005)
    print(f"{victim}, round {round_}: removed after {(time.monotonic() - killed) * 1e3:.0f} ms")
    assert server.exit_code(20) == code
    streams.join()
    assert not any(psutil.pid_exists(pid) for pid in family)
