"""The real engine under the supervisor: in the group with the first token, out of it in any end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from tests.live.conftest import LiveServer
from tests.live.test_life_and_death import Streams, story
from tests.support.compute import GROUP, FakeCompute

pytestmark = pytest.mark.live
Start = Callable[..., LiveServer]
ROUNDS = int(os.environ.get("KILL_ROUNDS", "1"))
VICTIMS = 2 if ROUNDS > 1 else 1
"""A start takes a minute; tests/hathora/ kills serving processes that start at once."""
WITHIN_S = 5.0


@pytest.fixture
def fake() -> Iterator[FakeCompute]:
    with FakeCompute() as running:
        running.add_machine()
        yield running


def registered(start: Start, fake: FakeCompute) -> LiveServer:
    server = start(**fake.environ())
    server.wait_for("/livez", 200)
    assert not fake.endpoints[GROUP], "registered before a token was generated"
    server.ready()
    _until(lambda: fake.endpoints[GROUP])
    assert server.get("/health").json()["network"]["state"] in ("registering", "registered")
    return server


def _until(holds: Callable[[], object], within_s: float = 10.0) -> float:
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < within_s
        time.sleep(0.005)
    return time.monotonic() - began


def _serving(server: LiveServer) -> psutil.Process:
    return psutil.Process(server.process.pid).children()[0]


def test_a_drain_begins_with_leaving_the_group_and_every_stream_ends_well(
    start: Start, fake: FakeCompute
) -> None:
    server = registered(start, fake)
    streams = Streams(server, [story(60)] * 4)
    streams.wait_begun(4)
    asked = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    gone_s = _until(lambda: not fake.endpoints[GROUP])
    results = streams.join()
    assert all("[DONE]" in result["text"] for result in results)
    detached = fake.named("detachNetworkEndpoints")[0].at
    assert detached < max(result["ended"] for result in results)
    assert server.exit_code(30) == 0
    print(f"gone after {gone_s * 1e3:.0f} ms, ended after {time.monotonic() - asked:.1f} s")
    assert [name for name in fake.names if name != "operation"] == [
        "aggregatedList", "get", "listNetworkEndpoints",  # nothing was left by an earlier process
        "aggregatedList", "get", "listNetworkEndpoints",
        "attachNetworkEndpoints", "listNetworkEndpoints",
        "detachNetworkEndpoints", "listNetworkEndpoints",
    ]  # fmt: skip


@pytest.mark.parametrize("round_", range(ROUNDS))
@pytest.mark.parametrize(
    ("victim", "code"), [("sglang::scheduler", 70), ("serving", 128 + signal.SIGKILL)][:VICTIMS]
)
def test_whatever_is_killed_under_load_the_endpoint_goes_within_five_seconds(
    start: Start, fake: FakeCompute, victim: str, code: int, round_: int
) -> None:
    server = registered(start, fake)
    streams = Streams(server, [story(200)] * 8)
    streams.wait_begun(8)
    family = [each.pid for each in server.children()]
    (_serving(server) if victim == "serving" else server.child(victim)).kill()
    gone_s = _until(lambda: not fake.endpoints[GROUP])
    print(f"{victim}, round {round_}: gone after {gone_s * 1e3:.0f} ms")
    assert gone_s < WITHIN_S
    assert server.exit_code(20) == code
    streams.join()
    assert not any(psutil.pid_exists(pid) for pid in family)
