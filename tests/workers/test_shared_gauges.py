"""The gauges that serving processes share."""

from __future__ import annotations

from pathlib import Path

from app.gate import Gate
from app.lifecycle import Lifecycle, Phase
from app.stats import LocalGauges, LoopLag
from app.workers.shared_gauges import SharedGauges


def _local_gauges(requests: int, lag_s: float, silent_s: float) -> LocalGauges:
    lifecycle, lag = Lifecycle(), LoopLag()
    lifecycle.enter(Phase.READY)
    gate = Gate(lifecycle, max_running=9, max_waiting=0, max_share=9)
    for _ in range(requests):
        gate.admit().arrive()
        gate.sequences.enter(gate.sequences.of_one_request(), gate.sequences.share)
    lag.note(lag_s)
    lag.note(0.0)
    return LocalGauges(gate, lag, lambda: silent_s)


async def test_shared_gauges_are_sums_of_counts_and_the_longest_durations(tmp_path: Path) -> None:
    SharedGauges.create(tmp_path, 3)
    shared = [SharedGauges(tmp_path, no) for no in range(3)]
    for each, requests, lag_s, silent_s in zip(
        shared, (2, 3, 0), (0.1, 0.7, 0.2), (4.0, 9.0, 0.0), strict=True
    ):
        each.publish(_local_gauges(requests, lag_s, silent_s))
    gauges = shared[0].gauges()
    # In each process one request has all the room.
    assert gauges.waiting == 3
    assert (gauges.in_flight, gauges.worst_lag_s, gauges.lag_s) == (5, 0.7, 0.0)
    # The third process has no request in flight, so its silence does not count.
    assert (gauges.longest_silence_s, gauges.shortest_silence_s) == (9.0, 4.0)


async def test_a_scrape_of_one_process_resets_the_worst_values_of_all(tmp_path: Path) -> None:
    SharedGauges.create(tmp_path, 2)
    shared = [SharedGauges(tmp_path, no) for no in range(2)]
    local = [_local_gauges(0, lag_s, 0.0) for lag_s in (0.1, 0.7)]
    for each, own in zip(shared, local, strict=True):
        each.publish(own)
    shared[0].scraped()
    for each, own in zip(shared, local, strict=True):
        each.publish(own)
    assert shared[0].gauges().worst_lag_s == 0.0
