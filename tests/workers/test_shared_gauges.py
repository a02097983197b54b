"""The gauges that serving processes share."""

from __future__ import annotations

from pathlib import Path

from app.gate import Gate
from app.lifecycle import Lifecycle, Phase
from app.stats import LocalGauges, LoopLag
from app.workers.shared_gauges import SharedGauges


def _counted(requests: int, lag_s: float, silent_s: float) -> LocalGauges:
    lifecycle, lag = Lifecycle(), LoopLag()
    lifecycle.enter(Phase.READY)
    gate = Gate(lifecycle, max_running=9, max_waiting=0)
    for _ in range(requests):
        gate.admit()
    lag.note(lag_s)
    lag.note(0.0)
    return LocalGauges(gate, lag, lambda: silent_s)


async def test_shared_gauges_are_sums_of_counts_and_the_longest_durations(tmp_path: Path) -> None:
    SharedGauges.create(tmp_path, 3)
    boards = [SharedGauges(tmp_path, no) for no in range(3)]
    for board, requests, lag_s, silent_s in zip(
        boards, (2, 3, 0), (0.1, 0.7, 0.2), (4.0, 9.0, 0.0), strict=True
    ):
        board.publish(_counted(requests, lag_s, silent_s))
    found = boards[0].gauges()
    assert (found.in_flight, found.worst_lag_s, found.lag_s) == (5, 0.7, 0.0)
    # The third has no work: that it has heard nothing says nothing.
    assert (found.longest_silence_s, found.shortest_silence_s) == (9.0, 4.0)


async def test_a_scrape_of_one_process_resets_the_worst_values_of_all(tmp_path: Path) -> None:
    SharedGauges.create(tmp_path, 2)
    boards = [SharedGauges(tmp_path, no) for no in range(2)]
    counted = [_counted(0, lag_s, 0.0) for lag_s in (0.1, 0.7)]
    for board, own in zip(boards, counted, strict=True):
        board.publish(own)
    boards[0].scraped()
    for board, own in zip(boards, counted, strict=True):
        board.publish(own)
    assert boards[0].gauges().worst_lag_s == 0.0
