"""Raw results as one markdown table: medians, and the ratios of this server to the others.

A ratio is taken within each round, between runs that were minutes apart, and then the median over
the rounds: whatever slows the whole machine for a while cancels out.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.servers import FLOOR, OURS, RUST, THEIRS

START = "start"
FIGURES = {
    "first_token_s": "start to the first token, s",
    "tree_cpu_s": "CPU of the start, all processes, s",
    "cpu_us_per_token": "CPU per token, µs",
    "text_cpu_us_per_token": "CPU per token with the detokenizer, µs",
    "tree_cpu_us_per_token": "CPU per token, all processes, µs",
    "cpu_ms_per_request": "CPU per request, ms",
    "tokens_per_s": "output tokens/s",
    "ttft_p50_ms": "TTFT p50, ms",
    "ttft_p99_ms": "TTFT p99, ms",
    "itl_p50_ms": "ITL p50, ms",
    "itl_p99_ms": "ITL p99, ms",
    "latency_p50_ms": "whole answer p50, ms",
    "latency_p99_ms": "whole answer p99, ms",
    "prompt_tokens": "tokens of a prompt",
    "output_tokens": "tokens of an answer",
    "cached_share": "share of the prompts that was cached",
    "rss_mb": "memory, MB",
    "tree_rss_mb": "memory, all processes, MB",
    "tree_unshared_mb": "memory that is not shared, all processes, MB",
}
_IN_ITS_ENGINE = ("cpu_us_per_token", "text_cpu_us_per_token", "cpu_ms_per_request", "rss_mb")
"""Figures of the serving side, which the server in Rust has none of."""
_OTHERS = (THEIRS, RUST, FLOOR)


@dataclass(frozen=True)
class Result:
    """The figures of one subject under one load in one round."""

    setup: str
    """The model, and every option that differs from the default."""
    round: int
    subject: str
    load: str
    figures: dict[str, float]


@dataclass(frozen=True)
class Ratio:
    median: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f}-{self.most:.2f})"


def write(results: Path, result: Result) -> None:
    with results.open("a") as file:
        file.write(json.dumps(vars(result)) + "\n")


def read(results: Path) -> list[Result]:
    if not results.exists():
        return []
    return [Result(**json.loads(line)) for line in results.read_text().splitlines() if line]


def next_round(results: Iterable[Result], setup: str) -> int:
    return max((result.round for result in results if result.setup == setup), default=0) + 1


def markdown(results: Iterable[Result]) -> str:
    """One table for each setup, loads in the order in which they were first run."""
    by_setup: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_setup[result.setup].append(result)
    return "\n\n".join(_table(setup, group) for setup, group in by_setup.items())


def _table(setup: str, results: Sequence[Result]) -> str:
    values = _by_round(results)
    others = [name for name in _OTHERS if any(subject == name for _, _, subject in values)]
    head = ["load", "figure", OURS]
    for name in others:
        head += [name, f"{OURS} / {name} (min-max)"]
    rows = [head, ["---"] * len(head)]
    for load in dict.fromkeys(load for load, _, _ in values):
        rows += _rows(load, values, others)
    counts = {len(rounds) for rounds in values.values()}
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"Model and setup: {setup}; rounds: {max(counts)}", "", *lines])


_Rounds = dict[tuple[str, str, str], dict[int, float]]
"""(load, figure, subject) -> round -> value"""


def _by_round(results: Iterable[Result]) -> _Rounds:
    values: _Rounds = defaultdict(dict)
    for result in results:
        for figure, value in result.figures.items():
            values[result.load, figure, result.subject][result.round] = value
    return values


def _rows(load: str, rounds: _Rounds, others: Sequence[str]) -> Iterator[list[str]]:
    for figure, title in FIGURES.items():
        ours = rounds.get((load, figure, OURS), {})
        row = [load, title, _median(ours)]
        for name in others:
            known = name != RUST or figure not in _IN_ITS_ENGINE
            theirs = rounds.get((load, figure, name), {}) if known else {}
            row += [_median(theirs), _shown(paired(ours, theirs))]
        if any(row[2:]):
            yield row


def paired(one: dict[int, float], other: dict[int, float]) -> Ratio | None:
    """The ratio of `one` to `other` in each round that has both; None if there is no such round."""
    ratios = [value / other[round] for round, value in one.items() if other.get(round)]
    return Ratio(median(ratios), min(ratios), max(ratios)) if ratios else None


def _median(values: dict[int, float]) -> str:
    return f"{median(values.values()):.4g}" if values else ""


def _shown(ratio: Ratio | None) -> str:
    return "" if ratio is None else str(ratio)
