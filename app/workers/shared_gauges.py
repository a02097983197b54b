"""Where serving processes leave their figures for each other: one small file that all have mapped.

    [scrapes so far] [row of process 0] [row of process 1] ...     doubles

Each process writes its own row, at every change and four times a second; any of them reads all.
"""

from __future__ import annotations

import math
import mmap
from pathlib import Path

from app.stats import Gauges, GaugeSource

_NAME = "figures"
_ROW = 5
_BYTES = 8


class SharedGauges:
    @staticmethod
    def create(folder: Path, processes: int) -> None:
        (folder / _NAME).write_bytes(bytes(_BYTES * (1 + processes * _ROW)))

    def __init__(self, folder: Path, process: int = 0) -> None:
        """`process`: whose row `publish` writes."""
        with (folder / _NAME).open("r+b") as file:
            self._cells = memoryview(mmap.mmap(file.fileno(), 0)).cast("d")
        self._at = 1 + process * _ROW
        self._scrapes_seen = self._cells[0]

    def publish(self, own: GaugeSource) -> None:
        if self._cells[0] != self._scrapes_seen:
            self._scrapes_seen = self._cells[0]
            own.scraped()
        found = own.gauges()
        for cell, value in enumerate(
            (found.in_flight, found.lag_s, found.worst_lag_s, found.longest_silence_s,
             found.log_lines_dropped),
            start=self._at,
        ):  # fmt: skip
            self._cells[cell] = value

    def gauges(self) -> Gauges:
        """Of all together: sums, and of durations the longest."""
        cells = self._cells.tolist()[1:]
        in_flight, lag_s, worst_s, silences, dropped = (cells[no::_ROW] for no in range(_ROW))
        at_work = [silent for silent, inside in zip(silences, in_flight, strict=True) if inside]
        return Gauges(
            in_flight=int(sum(in_flight)),
            lag_s=max(lag_s),
            worst_lag_s=max(worst_s),
            longest_silence_s=max(silences),
            shortest_silence_s=min(at_work, default=math.inf),
            log_lines_dropped=int(sum(dropped)),
        )

    def scraped(self) -> None:
        self._cells[0] += 1
