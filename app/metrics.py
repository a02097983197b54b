"""Prometheus metrics: this server's `serve_*` series, and SGLang's `sglang:*` series unchanged.

SGLang's come from several processes through prometheus_client's multiprocess files, so ours use
them too: PROMETHEUS_MULTIPROC_DIR must be in the environment before this module is imported
(`environment.prepare` sets it), and several serving processes share it. Values that are not sums of
events (`Gauges`) are read at the scrape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, multiprocess
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app import metric_files
from app.endpoint import NO_NETWORK, Network, NetworkState
from app.errors import Draining, EngineDied, NotReady, Overloaded
from app.lifecycle import Lifecycle, Phase
from app.stats import GaugeSource, RequestStats

metric_files.allocate_first()

REQUESTS = Counter("serve_requests_total", "Requests answered.", ["route", "method", "code"])
REFUSED = Counter("serve_refused_total", "Requests refused before any work.", ["reason"])
DISCONNECTS = Counter(
    "serve_client_disconnects_total", "Clients that disconnected early.", ["phase"]
)
PROMPT_TOKENS = Counter("serve_prompt_tokens_total", "Prompt tokens, as the engine counts them.")
CACHED_TOKENS = Counter("serve_cached_tokens_total", "Prompt tokens that the prefix cache had.")
PICTURES = Counter("serve_pictures_total", "Pictures of requests that were seen.")
PICTURE_TOKENS = Counter("serve_picture_tokens_total", "Prompt tokens that are pictures'.")
COMPLETION_TOKENS = Counter("serve_completion_tokens_total", "Tokens generated.")
FINISHED = Counter("serve_choices_finished_total", "Choices that ended.", ["reason"])
DURATION = Histogram(
    "serve_request_duration_seconds",
    "From the request's first byte to the answer's last.",
    ["route"],
    buckets=(0.005, 0.02, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600),
)
TTFT = Histogram(
    "serve_time_to_first_token_seconds",
    "From the request's arrival to the first token.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
)
INTER_TOKEN = Histogram(
    "serve_inter_token_latency_seconds",
    "Mean time between the tokens of one request.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
STORED = Counter("serve_store_responses_total", "Responses that were stored.")
STORE_FAILURES = Counter(
    "serve_store_failures_total", "Calls of the store of responses that failed.", ["call"]
)
STORE_EVICTED = Counter(
    "serve_store_evicted_total", "Responses and conversations that the store removed.", ["reason"]
)
FILES = Counter(
    "serve_files_total",
    "Files that were uploaded or deleted, were too old, came in part, or were left by a server.",
    ["event"],
)
FILE_BYTES = Counter("serve_file_bytes_total", "Bytes of files, in and out.", ["way"])
FILE_FAILURES = Counter(
    "serve_file_failures_total", "Calls of the store of files that failed.", ["call"]
)

# Create these series at once: alerts need them before their first event.
for _phase in ("waiting", "streaming"):
    DISCONNECTS.labels(_phase)
for _refusal in (NotReady, Overloaded, Draining, EngineDied):
    REFUSED.labels(_refusal.code)

for _call in (
    "open",
    "put",
    "get",
    "chain",
    "remove",
    "hold",
    "release",
    "cancel",
    "round",
    "evict",
):
    STORE_FAILURES.labels(_call)
for _reason in ("age", "bounds"):
    STORE_EVICTED.labels(_reason)
for _event in ("uploaded", "abandoned", "deleted", "expired", "swept"):
    FILES.labels(_event)
for _way in ("in", "out"):
    FILE_BYTES.labels(_way)
for _call in ("open", "put", "get", "read", "remove", "round"):
    FILE_FAILURES.labels(_call)


def record(stats: RequestStats) -> None:
    """Record the stats of one request; called once, when it has ended."""
    if stats.prompt_tokens is not None:
        PROMPT_TOKENS.inc(stats.prompt_tokens)
    if stats.cached_tokens:
        CACHED_TOKENS.inc(stats.cached_tokens)
    if stats.pictures is not None:
        PICTURES.inc(stats.pictures)
        PICTURE_TOKENS.inc(stats.picture_tokens or 0)
    if stats.completion_tokens is not None:
        COMPLETION_TOKENS.inc(stats.completion_tokens)
    if stats.finish_reason is not None:
        FINISHED.labels(stats.finish_reason).inc()
    if stats.first_token is None:
        return
    TTFT.observe(stats.first_token - stats.arrived)
    if stats.completion_tokens is not None and stats.completion_tokens > 1:
        generating_s = stats.last_token - stats.first_token
        INTER_TOKEN.observe(generating_s / (stats.completion_tokens - 1))


class _GaugeCollector(Collector):
    """Reads the gauges at the scrape."""

    def __init__(
        self, lifecycle: Lifecycle, source: GaugeSource, network: Callable[[], Network]
    ) -> None:
        self._lifecycle, self._source, self._network = lifecycle, source, network

    def collect(self) -> Iterable[Metric]:
        gauges = self._source.gauges()
        self._source.scraped()
        yield GaugeMetricFamily(
            "serve_in_flight_requests", "Requests in flight, waiting or running.", gauges.in_flight
        )
        yield GaugeMetricFamily(
            "serve_waiting_requests",
            "Of these, those that wait for a place in the engine.",
            gauges.waiting,
        )
        phase = GaugeMetricFamily("serve_phase", "1 for the phase it is in.", labels=["phase"])
        for each_phase in Phase:
            phase.add_metric([each_phase], float(each_phase is self._lifecycle.phase))
        yield phase
        network = self._network()
        state = GaugeMetricFamily(
            "serve_network_state", "1 for the network endpoint's state.", labels=["state"]
        )
        for each_state in NetworkState:
            state.add_metric([each_state], float(each_state is network.state))
        yield state
        yield CounterMetricFamily(
            "serve_network_failures", "Registrations and removals that failed.", network.failures
        )
        yield GaugeMetricFamily("serve_uptime_seconds", "Since start.", self._lifecycle.uptime_s)
        yield GaugeMetricFamily(
            "serve_event_loop_lag_seconds", "How late the last timer ran.", gauges.lag_s
        )
        yield GaugeMetricFamily(
            "serve_event_loop_lag_worst_seconds",
            "Latest timer since the last scrape.",
            gauges.worst_lag_s,
        )
        yield CounterMetricFamily(
            "serve_log_lines_dropped", "Log lines lost to a slow reader.", gauges.log_lines_dropped
        )
        yield GaugeMetricFamily(
            "serve_metric_series_lost", "Series not shown: TMPDIR is full.", gauges.series_lost
        )


class Metrics:
    """Renders a scrape: the series above and those that the engine's processes wrote."""

    CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(
        self,
        lifecycle: Lifecycle,
        gauges: GaugeSource,
        network: Callable[[], Network] = lambda: NO_NETWORK,
    ) -> None:
        """`gauges`: those of the whole server."""
        self._registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]
        self._registry.register(_GaugeCollector(lifecycle, gauges, network))

    def scrape(self) -> bytes:
        """Read the files of every process. Blocks: call it in a thread."""
        return generate_latest(self._registry)
