"""Each process of the engine, killed in turn, for each way in which the engine has several.

CHAOS=1 python -m pytest tests/chaos -rP        a minute for each

Not those of pipeline parallelism: on CPUs SGLang 0.5.23 ends while it loads the second stage.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from tests.live.conftest import LiveServer, registered
from tests.live.test_life_and_death import ENDLESS, Streams, _nothing_left, story
from tests.support import sse
from tests.support.compute import GROUP, FakeCompute
from tests.support.machine import allowed
from tests.support.processes import alive

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif("CHAOS" not in os.environ, reason="a minute for each: CHAOS=1"),
]
KINDS = {
    "replicas": {"DATA_PARALLEL_SIZE": "2", "SGLANG_CPU_OMP_THREADS_BIND": "0|1"},
    "replicas, one detokenizer": {
        "DATA_PARALLEL_SIZE": "2",
        "SGLANG_CPU_OMP_THREADS_BIND": "0|1",
        "DETOKENIZER_PROCESS": "true",
    },
    "parts": {"TP_SIZE": "2", "SGLANG_CPU_OMP_THREADS_BIND": "0|1"},
    "serving processes": {"TOKENIZER_WORKERS": "2"},
}
VICTIMS = [
    ("replicas", "sglang::data_parallel_controller"),
    ("replicas", "sglang::scheduler_DP0"),
    ("replicas", "sglang::scheduler_DP1"),
    ("replicas, one detokenizer", "sglang::detokenizer"),
    ("parts", "sglang::scheduler_TP0"),
    ("parts", "sglang::scheduler_TP1"),
    ("serving processes", "sglang::scheduler"),
    ("serving processes", "sglang::detokenizer"),
]


@pytest.mark.parametrize(("kind", "victim"), VICTIMS)
def test_every_client_gets_an_error_whichever_process_is_killed(
    start: Callable[..., LiveServer], kind: str, victim: str
) -> None:
    server = start(**KINDS[kind]).ready()
    family = [each.pid for each in server.children()]
    streams = Streams(server, [story(ENDLESS)] * 8)
    streams.wait_begun(8)
    killed = time.monotonic()
    server.child(victim).kill()
    code = server.exit_code(within_s=10)
    results = streams.join()
    slowest = max(result["ended"] for result in results) - killed
    print(f"{kind}, {victim}: last client told after {slowest:.2f} s")
    for result in results:
        *_, error, done = sse.frames(result["text"])
        assert done == "[DONE]"
        assert error["error"]["code"] == "engine_dead"
    assert slowest < allowed(2)
    assert code == 70
    _nothing_left(family)


@pytest.mark.parametrize(
    ("kind", "victim"), [("replicas", "sglang::scheduler_DP1"), ("parts", "sglang::scheduler_TP1")]
)
def test_a_clean_end_asks_every_scheduler_to_end(
    start: Callable[..., LiveServer], kind: str, victim: str
) -> None:
    server = start(LOG_LEVEL="debug", **KINDS[kind]).ready()
    family = [each.pid for each in server.children()]
    scheduler = server.child(victim)
    server.process.send_signal(signal.SIGTERM)
    assert server.exit_code(within_s=30) == 0
    assert not alive(scheduler)
    _nothing_left(family)


@pytest.mark.parametrize(
    ("kind", "victim"),
    [
        ("replicas", "sglang::scheduler_DP1"),
        ("parts", "sglang::scheduler_TP1"),
        ("serving processes", "sglang::scheduler"),
        ("serving processes", "sglang::detokenizer"),
    ],
)
def test_every_client_gets_an_error_whichever_process_stands_still(
    start: Callable[..., LiveServer], fake: FakeCompute, kind: str, victim: str
) -> None:
    networked = fake.environ() if victim == "sglang::scheduler_TP1" else {}
    server = start(ENGINE_STALL_TIMEOUT="10", **KINDS[kind], **networked).ready()
    if networked:
        registered(server, fake)
    streams = Streams(server, [story(ENDLESS)] * 8)
    streams.wait_begun(8)
    family = [each.pid for each in server.children()]
    stopped = time.monotonic()
    server.child(victim).suspend()
    code = server.exit_code(within_s=60)
    print(f"{kind}, {victim}: exit {code} after {time.monotonic() - stopped:.1f} s")
    errors = [sse.frames(result["text"])[-2] for result in streams.join()]
    told = sum("error" in frame for frame in errors)
    assert told > 0  # a replica that goes on may have finished its share
    assert code == 73
    _nothing_left(family)
    if networked:
        assert not fake.endpoints[GROUP]
