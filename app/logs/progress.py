"""How far a start is, as one line of a terminal."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

_BAR_COLUMNS = 20
_RATE_OVER_S = 10.0
_SPINNERS = {True: "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", False: "|/-\\"}
_BARS = {True: ("█", "░"), False: ("#", ".")}
_TURN_S = 0.1


@dataclass(frozen=True, slots=True)
class Progress:
    """What is being done, since when the server starts, and of what can be counted how much."""

    activity: str
    elapsed_s: float
    done: int = 0
    total: int = 0
    """0: nothing can be counted."""
    unit: str = "B"
    """`B`, or what is counted."""


class ProgressLine:
    """Renders `Progress` time and again, and measures its rate."""

    def __init__(self, *, unicode: bool) -> None:
        self._unicode = unicode
        self._seen: deque[tuple[float, str, int]] = deque()

    def text(self, progress: Progress, columns: int, *, now: float | None = None) -> str:
        """At most `columns` wide; what has no room is left out, the least telling first."""
        now = time.monotonic() if now is None else now
        spinner = _SPINNERS[self._unicode]
        turn = spinner[int(now / _TURN_S) % len(spinner)]
        head, elapsed = f"{turn} {progress.activity}", span(progress.elapsed_s)
        if not progress.total:
            return self._joined([head, elapsed], columns)
        rate = self._rate(progress, now)
        done = min(progress.done, progress.total)
        bar = f"{head}  {self._bar(done / progress.total)}"
        amount = amounts(done, progress.total, progress.unit)
        speed = [f"{rate / 1e6:.1f} MB/s"] if rate and progress.unit == "B" else []
        left = [f"{span((progress.total - done) / rate)} left"] if rate else []
        for parts in (
            [f"{bar} {amount}", *speed, *left, elapsed],
            [f"{bar} {amount}", *left, elapsed],
            [f"{bar} {amount}", elapsed],
            [head, amount, elapsed],
        ):
            if len(line := self._joined(parts)) <= columns:
                return line
        return self._joined([head, amount], columns)

    def _joined(self, parts: list[str], columns: int | None = None) -> str:
        return (" · " if self._unicode else " - ").join(parts)[:columns]

    def _bar(self, share: float) -> str:
        full, empty = _BARS[self._unicode]
        columns = int(share * _BAR_COLUMNS)
        return full * columns + empty * (_BAR_COLUMNS - columns)

    def _rate(self, progress: Progress, now: float) -> float:
        """Per second, over the last seconds; 0: not known yet."""
        seen, what = self._seen, f"{progress.activity} {progress.unit}"
        if seen and (seen[-1][1] != what or seen[-1][2] > progress.done):
            seen.clear()
        seen.append((now, what, progress.done))
        while len(seen) > 2 and now - seen[0][0] > _RATE_OVER_S:
            seen.popleft()
        since, _, before = seen[0]
        return (progress.done - before) / (now - since) if now - since > 1 else 0.0


def span(seconds: float) -> str:
    """`97 s`, `12 min`."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def amounts(done: int, total: int, unit: str) -> str:
    """`190 of 400 MB`, `1.2 of 4.3 GB`, `2 of 4 shards`."""
    if unit != "B":
        return f"{done} of {total} {unit}"
    if total < 10**9:
        return f"{done / 1e6:.0f} of {total / 1e6:.0f} MB"
    return f"{done / 1e9:.1f} of {total / 1e9:.1f} GB"
