"""Counts and times of one request, and gauges of a process; independent of a metrics back end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import msgspec

from app.events import (
    Beat,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from app.gate import Gate
from app.logs import setup as logs
from app.types import Sampling


class Prefix(msgspec.Struct, frozen=True):
    """What a prompt has in common with one before that begins alike."""

    tokens: int
    """Of the common beginning."""
    earlier: int
    """Tokens of that earlier prompt. As many as `tokens`: this one goes on from it."""
    differs_in: str | None = None
    """Where the first difference lies, such as `message 4 of 9 (tool)`; None: there is none."""


class RequestStats:
    """Token counts and times of one HTTP request or job, for its end line and the metrics."""

    __slots__ = (
        "arrived",
        "cached_tokens",
        "completion_tokens",
        "entered",
        "finish_reason",
        "first_token",
        "last_token",
        "on_prompt",
        "owner",
        "picture_tokens",
        "pictures",
        "prefix",
        "prepared",
        "prompt_tokens",
        "sampling",
        "timed",
    )

    def __init__(self, timed: bool = False) -> None:
        """`timed`: `prepared` and `entered` are of interest to somebody."""
        self.timed = timed
        self.arrived = time.perf_counter()
        self.prepared: float | None = None
        """When its prompt was ready: tokens, grammar, pictures."""
        self.entered: float | None = None
        """When the engine was asked: there was room for it."""
        self.first_token: float | None = None
        self.last_token = 0.0
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.finish_reason: str | None = None
        self.owner = ""
        """As of a dialect's `Call`."""
        self.pictures: int | None = None
        self.picture_tokens: int | None = None
        self.prefix: Prefix | None = None
        """None: nothing like its prompt came before."""
        self.on_prompt: Callable[[int], None] | None = None
        """Is called with the prompts' tokens, before the engine gets them."""
        self.sampling: Sampling | None = None
        """What it asked for."""

    def prepare(self, sampling: Sampling, prompt_tokens: int) -> None:
        """The prompts are token ids; if `timed` or `on_prompt` wants to know."""
        if self.timed:
            self.sampling, self.prepared = sampling, time.perf_counter()
        if self.on_prompt is not None:
            self.on_prompt(prompt_tokens)

    def note(self, beat: Beat) -> None:
        """Record when the first and the last token arrived, and how the request ended."""
        for event in beat:
            match event:
                case TextDelta() | ReasoningDelta() | ToolCallStarted() | ToolCallDelta():
                    self.last_token = time.perf_counter()
                    if self.first_token is None:
                        self.first_token = self.last_token
                case Started(prompt_tokens, cached_tokens):
                    self.prompt_tokens, self.cached_tokens = prompt_tokens, cached_tokens
                case Finished(reason):
                    self.finish_reason = reason
                case Usage():
                    self.prompt_tokens = event.prompt_tokens
                    self.completion_tokens = event.completion_tokens
                    self.cached_tokens = event.cached_tokens

    def log_fields(self, **more: str | None) -> dict[str, Any]:
        """Fields of the request's end line: these and `more`, without those that are None."""
        fields: dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cached_tokens": self.cached_tokens,
            "pictures": self.pictures,
            "picture_tokens": self.picture_tokens,
            "ttft_ms": None,
            "finish_reason": self.finish_reason,
            **more,
        }
        if self.prefix is not None and self.prefix.differs_in is not None:
            fields["prefix_tokens"] = self.prefix.tokens
            fields["prefix_of"] = self.prefix.earlier
            fields["prefix_differs_in"] = self.prefix.differs_in
        if self.first_token is not None:
            fields["ttft_ms"] = round((self.first_token - self.arrived) * 1e3, 1)
        return {name: value for name, value in fields.items() if value is not None}

    def phases(self) -> Iterator[tuple[str, float]]:
        """What its time was for so far, in seconds."""
        if self.prepared is None:
            return
        yield "prompt", self.prepared - self.arrived
        if self.entered is None:
            return
        yield "queue", self.entered - self.prepared
        if self.first_token is None:
            return
        yield "prefill", self.first_token - self.entered
        if self.last_token > self.first_token:
            yield "decode", self.last_token - self.first_token

    def server_timing(self, total_s: float) -> bytes:
        """The header's value: milliseconds until the answer began, and what they were for."""
        arrived, prepared, entered = self.arrived, self.prepared, self.entered
        if prepared is None or entered is None or self.first_token is None:
            return b"total;dur=%.1f" % (total_s * 1e3)
        return (
            b"prompt;dur=%.1f, queue;dur=%.1f, prefill;dur=%.1f, ttft;dur=%.1f, total;dur=%.1f"
            % (
                (prepared - arrived) * 1e3,
                (entered - prepared) * 1e3,
                (self.first_token - entered) * 1e3,
                (self.first_token - arrived) * 1e3,
                total_s * 1e3,
            )
        )

    def cache_header(self) -> bytes:
        """What of the prompt was in the prefix cache, and why not more."""
        parts = [f"cached={self.cached_tokens or 0}", f"prompt={self.prompt_tokens or 0}"]
        if self.prefix is not None:
            parts += [f"shared={self.prefix.tokens}", f"earlier={self.prefix.earlier}"]
            if self.prefix.differs_in is not None:
                parts.append(f'differs_in="{self.prefix.differs_in}"')
        return "; ".join(parts).encode()


def milliseconds(seconds: float) -> float:
    return round(seconds * 1e3, 1)


class LoopLag:
    """How late the event loop runs a timer: it shows that something blocks the loop."""

    INTERVAL_S = 0.25

    def __init__(self) -> None:
        self.last_s = 0.0
        self.worst_s = 0.0

    def note(self, late_s: float) -> None:
        self.last_s = max(0.0, late_s)
        self.worst_s = max(self.worst_s, self.last_s)


class Gauges(msgspec.Struct, frozen=True):
    """Current values of one serving process, or of all together."""

    in_flight: int
    waiting: int
    """Of them, those that wait for a place in the engine and have none there."""
    lag_s: float
    worst_lag_s: float
    """Since the last scrape."""
    longest_silence_s: float
    """Seconds since the engine last answered a process to which it owes an answer: the longest."""
    shortest_silence_s: float
    """The same, the shortest; infinite if it owes none an answer."""
    log_lines_dropped: int
    series_lost: int
    """Series of the metrics that no scrape shows, for want of room."""


class GaugeSource(Protocol):
    """Reports the gauges of one process, or of all."""

    def gauges(self) -> Gauges: ...

    def scraped(self) -> None:
        """Begin a new interval: reset the worst values."""


class LocalGauges:
    """The gauges of this process alone."""

    def __init__(
        self,
        gate: Gate,
        lag: LoopLag,
        silent_s: Callable[[], float] = lambda: 0.0,
        series_lost: Callable[[], int] = lambda: 0,
    ) -> None:
        self._gate, self._lag = gate, lag
        self._silent_s, self._series_lost = silent_s, series_lost

    def gauges(self) -> Gauges:
        silent_s = self._silent_s()
        return Gauges(
            in_flight=self._gate.in_flight,
            waiting=self._gate.sequences.waiting_requests,
            lag_s=self._lag.last_s,
            worst_lag_s=self._lag.worst_s,
            longest_silence_s=silent_s,
            shortest_silence_s=silent_s or math.inf,
            log_lines_dropped=logs.dropped(),
            series_lost=self._series_lost(),
        )

    def scraped(self) -> None:
        self._lag.worst_s = self._lag.last_s
