"""What the page shows of a server at a moment, from the series of `/metrics`.

Counters become rates between two readings; histograms become the mean of what was observed between
them, and percentiles as PromQL's `histogram_quantile` has them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from app import metric_files
from app.types import Json

_TTFT = "serve_time_to_first_token_seconds"
_INTER_TOKEN = "serve_inter_token_latency_seconds"  # noqa: S105  # a token of text


_FEWEST = 10
"""Observations that have percentiles. One may be anywhere between the bounds of its bucket, which
are as far apart as 2.5 and 5 s; the mean of a few is exact."""


class Spread(msgspec.Struct, frozen=True):
    """A histogram: how many observations each bucket has, by its upper bound, and their sum."""

    counts: Mapping[float, float]
    sum: float

    def since(self, earlier: Spread) -> Spread:
        counts = {
            bound: count - earlier.counts.get(bound, 0.0) for bound, count in self.counts.items()
        }
        return Spread(counts, self.sum - earlier.sum)

    @property
    def count(self) -> float:
        return sum(self.counts.values())

    def quantile(self, share: float) -> float | None:
        """Seconds; None: nothing was observed. In the last bucket the largest finite bound."""
        rank, below, floor = share * self.count, 0.0, 0.0
        if not self.count:
            return None
        for bound, count in sorted(self.counts.items()):
            if below + count >= rank and count:
                if math.isinf(bound):
                    return floor
                return floor + (bound - floor) * (rank - below) / count
            below += count
            floor = bound
        return floor

    def shown(self) -> Json:
        count = self.count
        enough = count >= _FEWEST
        return {
            "p50": self.quantile(0.5) if enough else None,
            "p99": self.quantile(0.99) if enough else None,
            "mean": self.sum / count if count else None,
            "count": int(count),
        }


class Figures(msgspec.Struct, frozen=True):
    """Totals since the start, of every serving process together."""

    prompt_tokens: float
    cached_tokens: float
    completion_tokens: float
    answered: float
    failed: float
    """Of the answered: with a status of 500 or more."""
    refused: float
    """Of the answered: with a status of 400 to 498. 499: the client has left."""
    ttft: Spread
    inter_token: Spread

    @classmethod
    def read(cls) -> Figures:
        """Reads files: call it in a thread."""
        series = metric_files.sums("serve_")

        def total(name: str) -> float:
            return series.get((name, ()), 0.0)

        by_status: dict[str, float] = {}
        for (name, labels), value in series.items():
            if name == "serve_requests_total":
                code, method, _ = labels
                # Those that work: watching a server is not its work.
                if method in ("POST", "DELETE") and code != "0":
                    kind = code[0] if code != "499" else "left"
                    by_status[kind] = by_status.get(kind, 0.0) + value
        return cls(
            prompt_tokens=total("serve_prompt_tokens_total"),
            cached_tokens=total("serve_cached_tokens_total"),
            completion_tokens=total("serve_completion_tokens_total"),
            answered=sum(by_status.values()),
            failed=by_status.get("5", 0.0),
            refused=by_status.get("4", 0.0),
            ttft=_spread(series, _TTFT),
            inter_token=_spread(series, _INTER_TOKEN),
        )

    def share_cached(self, earlier: Figures | None) -> float | None:
        """Of the prompts' tokens since then; None: there were none."""
        prompts, cached = self.prompt_tokens, self.cached_tokens
        if earlier is not None:
            prompts -= earlier.prompt_tokens
            cached -= earlier.cached_tokens
        return min(1.0, cached / prompts) if prompts > 0 else None


def _spread(series: Mapping[metric_files.Series, float], name: str) -> Spread:
    counts = {
        float(labels[0]): value
        for (each, labels), value in series.items()
        if each == f"{name}_bucket"
    }
    return Spread(counts, series.get((f"{name}_sum", ()), 0.0))
