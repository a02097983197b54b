"""Traces of requests, as the rest of the program sees them. Off, `Tracing` is None.

    Traced | job ─────── Tracing.begin ─ Span ─────────────── Span.end ─> otlp.py, in a thread
                                          └ logs.trace_id, `carried`: in the request's context

Only otlp.py imports opentelemetry, and only where a collector is set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from app.stats import RequestStats

OPERATIONS: Mapping[str, str] = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/completions": "text_completion",
    "/generate": "text_completion",
    "/v1/embeddings": "embeddings",
}
"""Route -> `gen_ai.operation.name`: the routes whose requests have a span."""

carried: ContextVar[dict[str, str] | None] = ContextVar("carried", default=None)
"""`traceparent` and `tracestate` of the span that the present request has, for what it calls."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What became of a request."""

    id: str
    """Its id in the log and in the answer's header."""
    route: str
    method: str
    status: int
    error: str | None
    """Code of the error that ended it."""
    at_fault: bool
    """The server is, and not the client."""
    stats: RequestStats
    fields: Mapping[str, Any]
    """Those of its end line that the dialect has filled in."""


class Span(Protocol):
    """Of one request, which is still answered."""

    def end(self, ending: Ending) -> None: ...


class Tracing(Protocol):
    """Makes spans and exports them. All methods belong to the event loop."""

    def begin(
        self, operation: str, route: str, headers: Iterable[tuple[bytes, bytes]], began: float
    ) -> Span:
        """`headers`: the client's, with names in lower case. `began`: by `time.perf_counter`."""

    async def close(self) -> None:
        """Export what is left, if the collector is quick."""
