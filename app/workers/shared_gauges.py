"""The gauges of all serving processes: one small file that each of them maps into memory.

    [scrapes so far] [row of process 0] [row of process 1] ...     doubles

Each process writes its own row, at every change and four times a second, and can read all rows. A
row has the time at which it was written, by which the parent knows a process that stands still.
"""

from __future__ import annotations

import math
import mmap
import time
from collections.abc import Sequence
from pathlib import Path

from app.stats import Gauges, GaugeSource

_NAME = "gauges"
_COLUMNS = 8
_BYTES = 8


class SharedGauges:
    @staticmethod
    def create(folder: Path, processes: int) -> None:
        (folder / _NAME).write_bytes(bytes(_BYTES * (1 + processes * _COLUMNS)))

    def __init__(self, folder: Path, process: int = 0) -> None:
        """`process`: the number of the process whose row `publish` writes."""
        with (folder / _NAME).open("r+b") as file:
            self._cells = memoryview(mmap.mmap(file.fileno(), 0)).cast("d")
        self._own_row = 1 + process * _COLUMNS
        self._scrapes_seen = self._cells[0]

    def publish(self, own: GaugeSource) -> None:
        if self._cells[0] != self._scrapes_seen:
            self._scrapes_seen = self._cells[0]
            own.scraped()
        gauges = own.gauges()
        row = (
            gauges.in_flight,
            gauges.waiting,
            gauges.lag_s,
            gauges.worst_lag_s,
            gauges.longest_silence_s,
            gauges.log_lines_dropped,
            gauges.series_lost,
            time.monotonic(),
        )
        for cell, value in enumerate(row, start=self._own_row):
            self._cells[cell] = value

    def gauges(self) -> Gauges:
        """Of all processes together: sums of counts, and the longest durations."""
        cells = self._cells.tolist()[1:]
        in_flight, waiting, lag_s, worst_s, silences, dropped, series_lost, _ = (
            cells[column::_COLUMNS] for column in range(_COLUMNS)
        )
        with_work = [silence for silence in silences if silence]
        return Gauges(
            in_flight=int(sum(in_flight)),
            waiting=int(sum(waiting)),
            lag_s=max(lag_s),
            worst_lag_s=max(worst_s),
            longest_silence_s=max(silences),
            shortest_silence_s=min(with_work, default=math.inf),
            log_lines_dropped=int(sum(dropped)),
            series_lost=int(sum(series_lost)),
        )

    def written_at(self) -> Sequence[float]:
        """When each process last wrote its row, by the monotonic clock; 0 before it has begun."""
        return self._cells.tolist()[_COLUMNS::_COLUMNS]

    def scraped(self) -> None:
        self._cells[0] += 1
