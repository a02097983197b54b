"""Prometheus metrics: SGLang's `sglang:*` series as they are, and ours beside them.

SGLang's come from several processes through prometheus_client's multiprocess files, so ours use
them too: PROMETHEUS_MULTIPROC_DIR must be in the environment before this module is imported
(`environment.prepare` sees to it), and several serving processes have it in common. What is no sum
of events (`Figures`) is read at the scrape.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, multiprocess
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app import logs
from app.errors import Draining, EngineDied, NotReady, Overloaded
from app.lifecycle import NO_NETWORK, Gate, Lifecycle, Network, NetworkState, Phase
from app.types import (
    Beat,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)  # fmt: skip

REQUESTS = Counter("serve_requests_total", "Requests answered.", ["route", "method", "code"])
REFUSED = Counter("serve_refused_total", "Requests refused before any work.", ["reason"])
DISCONNECTS = Counter("serve_client_disconnects_total", "Clients that left early.", ["phase"])
PROMPT_TOKENS = Counter("serve_prompt_tokens_total", "Prompt tokens, as the engine counts them.")
COMPLETION_TOKENS = Counter("serve_completion_tokens_total", "Tokens generated.")
FINISHED = Counter("serve_choices_finished_total", "Choices that ended.", ["reason"])
DURATION = Histogram(
    "serve_request_duration_seconds", "From the request's first byte to the answer's last.",
    ["route"], buckets=(0.005, 0.02, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600),
)  # fmt: skip
TTFT = Histogram(
    "serve_time_to_first_token_seconds", "From the request's arrival to the first token.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
)  # fmt: skip
INTER_TOKEN = Histogram(
    "serve_inter_token_latency_seconds", "Mean time between the tokens of one request.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)  # fmt: skip

# Series that begin with their first event cannot be alerted on before it.
for _phase in ("waiting", "streaming"):
    DISCONNECTS.labels(_phase)
for _refusal in (NotReady, Overloaded, Draining, EngineDied):
    REFUSED.labels(_refusal.code)


class RequestStats:
    """What one request did, for its end line and the metrics. One per HTTP request or job."""

    __slots__ = (
        "arrived", "cached_tokens", "completion_tokens", "finish_reason", "first_token",
        "last_token", "prompt_tokens",
    )  # fmt: skip

    def __init__(self) -> None:
        self.arrived = time.perf_counter()
        self.first_token: float | None = None
        self.last_token = 0.0
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.finish_reason: str | None = None

    @property
    def ttft_s(self) -> float | None:
        return None if self.first_token is None else self.first_token - self.arrived

    def note(self, beat: Beat) -> None:
        """When the first and the last token came, and how it ended."""
        for event in beat:
            match event:
                case TextDelta() | ReasoningDelta() | ToolCallStarted() | ToolCallDelta():
                    self.last_token = time.perf_counter()
                    if self.first_token is None:
                        self.first_token = self.last_token
                case Started(prompt_tokens):
                    self.prompt_tokens = prompt_tokens
                case Finished(reason):
                    self.finish_reason = reason
                case Usage():
                    self.prompt_tokens = event.prompt_tokens
                    self.completion_tokens = event.completion_tokens
                    self.cached_tokens = event.cached_tokens

    def record(self) -> None:
        """Observe the metrics; once, when the request is over."""
        if self.prompt_tokens is not None:
            PROMPT_TOKENS.inc(self.prompt_tokens)
        if self.completion_tokens is not None:
            COMPLETION_TOKENS.inc(self.completion_tokens)
        if self.finish_reason is not None:
            FINISHED.labels(self.finish_reason).inc()
        if self.ttft_s is None or self.first_token is None:
            return
        TTFT.observe(self.ttft_s)
        if self.completion_tokens is not None and self.completion_tokens > 1:
            spent = self.last_token - self.first_token
            INTER_TOKEN.observe(spent / (self.completion_tokens - 1))


class LoopLag:
    """How late the event loop runs a timer: the sign of something blocking it."""

    INTERVAL_S = 0.25

    def __init__(self) -> None:
        self.last_s = 0.0
        self.worst_s = 0.0

    def noted(self, late_s: float) -> None:
        self.last_s = max(0.0, late_s)
        self.worst_s = max(self.worst_s, self.last_s)


class Figures(msgspec.Struct, frozen=True):
    """What is read when it is asked for: of one serving process, or of all together."""

    in_flight: int
    lag_s: float
    worst_lag_s: float
    """Since the last scrape."""
    silent_s: float
    """The longest that a process with work has waited for a word from the engine."""
    heard_s: float
    """The shortest; infinite without any work."""
    log_lines_dropped: int


class Counted(Protocol):
    """Whoever knows the figures."""

    def figures(self) -> Figures: ...

    def scraped(self) -> None:
        """The worst of something is counted anew."""


class ThisProcess:
    """The figures of this process alone."""

    def __init__(
        self, gate: Gate, lag: LoopLag, silent_s: Callable[[], float] = lambda: 0.0
    ) -> None:
        self._gate, self._lag, self._silent_s = gate, lag, silent_s

    def figures(self) -> Figures:
        silent_s = self._silent_s()
        return Figures(
            in_flight=self._gate.in_flight,
            lag_s=self._lag.last_s,
            worst_lag_s=self._lag.worst_s,
            silent_s=silent_s,
            heard_s=silent_s if self._gate.in_flight else math.inf,
            log_lines_dropped=logs.dropped(),
        )

    def scraped(self) -> None:
        self._lag.worst_s = self._lag.last_s


class _Read(Collector):
    """Gauges that are read at the scrape."""

    def __init__(
        self, lifecycle: Lifecycle, counted: Counted, network: Callable[[], Network]
    ) -> None:
        self._lifecycle, self._counted, self._network = lifecycle, counted, network

    def collect(self) -> Iterable[Metric]:
        found = self._counted.figures()
        self._counted.scraped()
        yield GaugeMetricFamily(
            "serve_in_flight_requests", "Requests inside, waiting or running.", found.in_flight
        )
        phase = GaugeMetricFamily("serve_phase", "1 for the phase it is in.", labels=["phase"])
        for each in Phase:
            phase.add_metric([each], float(each is self._lifecycle.phase))
        yield phase
        network = self._network()
        state = GaugeMetricFamily(
            "serve_network_state", "1 for the network endpoint's state.", labels=["state"]
        )
        for known in NetworkState:
            state.add_metric([known], float(known is network.state))
        yield state
        yield CounterMetricFamily(
            "serve_network_failures", "Registrations and removals that failed.", network.failures
        )
        yield GaugeMetricFamily("serve_uptime_seconds", "Since start.", self._lifecycle.uptime_s)
        yield GaugeMetricFamily(
            "serve_event_loop_lag_seconds", "How late the last timer ran.", found.lag_s
        )
        yield GaugeMetricFamily(
            "serve_event_loop_lag_worst_seconds", "Latest timer since the last scrape.",
            found.worst_lag_s,
        )  # fmt: skip
        yield CounterMetricFamily(
            "serve_log_lines_dropped", "Log lines lost to a slow reader.", found.log_lines_dropped
        )


class Metrics:
    """The scrape: everything above and what the engine's processes wrote."""

    CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(
        self,
        lifecycle: Lifecycle,
        gate: Gate,
        lag: LoopLag,
        network: Callable[[], Network] = lambda: NO_NETWORK,
        counted: Counted | None = None,
    ) -> None:
        """`counted`: who knows the figures of the whole server, if it is more than this process."""
        self._registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]
        self._registry.register(_Read(lifecycle, counted or ThisProcess(gate, lag), network))

    def scrape(self) -> bytes:
        """Blocking: reads the files of every process. Call it in a thread."""
        return generate_latest(self._registry)
