"""Spans of OpenTelemetry, exported by OTLP (http/protobuf) from a thread of its SDK.

Names of attributes: semantic conventions for generative AI, server spans and HTTP,
opentelemetry-semantic-conventions 0.66b2. No text of prompts or answers is in a span.

The SDK reads its other variables itself (OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, OTEL_BSP_...). Its
global provider stays unset: nothing else in this process is traced by it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span as AnySpan
from opentelemetry.trace import SpanKind, Status, StatusCode, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.re import parse_env_headers
from opentelemetry.util.types import AttributeValue

from app import __version__
from app.logs import setup as logs
from app.logs.setup import log
from app.settings.catalogue import Settings
from app.settings.secrets import hidden
from app.stats import RequestStats
from app.tracing.spans import Ending, carried

_W3C = TraceContextTextMapPropagator()
_NO_PARENT = Context()
_LONGEST = {"traceparent": 128, "tracestate": 512}
"""Characters; a longer header is not read. W3C's `traceparent` has 55, and its `tracestate` must be
carried up to 512."""
_ATTRIBUTE_CHARS = 256
_CLOSE_S = 1.0
_COMPLAINTS_S = 60.0
"""Between two lines of the exporter: a collector that is down is told once a minute."""


class OtlpTracing:
    def __init__(self, settings: Settings) -> None:
        """Reads SDK's variables; wrong values are its warnings, or ValueError."""
        endpoint = settings.traces_endpoint
        assert endpoint is not None
        for name in ("opentelemetry.exporter.otlp.proto.http.trace_exporter",
                     "opentelemetry.sdk._shared_internal"):  # fmt: skip
            logging.getLogger(name).addFilter(_Seldom())
        # It warns of each malformed `tracestate` with its text, before the client has shown a key.
        logging.getLogger("opentelemetry.trace.span").setLevel(logging.ERROR)
        exporter = OTLPSpanExporter(endpoint, headers=_headers(settings))
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("serve-hathora", __version__)
        self._model = settings.names[0]
        logs.show_traces()
        log.info("traces are exported", endpoint=hidden(endpoint))

    def begin(
        self, operation: str, route: str, headers: Iterable[tuple[bytes, bytes]], began: float
    ) -> OtlpSpan:
        wall_ns = time.time_ns() - int((time.perf_counter() - began) * 1e9)
        span = self._tracer.start_span(
            operation,
            _W3C.extract(client) if (client := _carrier(headers)) else _NO_PARENT,
            SpanKind.SERVER,
            # A sampler may decide by these.
            {"gen_ai.operation.name": operation, "http.route": route},
            start_time=wall_ns,
        )
        return OtlpSpan(span, operation, self._model, began, wall_ns)

    async def close(self) -> None:
        """The SDK's own `shutdown` waits half a minute for a collector that hangs."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def shut_down() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(_set, done)

        threading.Thread(target=shut_down, daemon=True, name="last-spans").start()
        await asyncio.wait({done}, timeout=_CLOSE_S)


def _set(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


class OtlpSpan:
    """While it lasts, log lines have its trace's id, and `carried` leads to it."""

    __slots__ = ("_began", "_model", "_operation", "_span", "_tokens", "_wall_ns")

    def __init__(
        self, span: AnySpan, operation: str, model: str, began: float, wall_ns: int
    ) -> None:
        self._span, self._operation, self._model = span, operation, model
        self._began, self._wall_ns = began, wall_ns
        context = span.get_span_context()
        id: str | None = None
        onward: dict[str, str] | None = None
        if context.is_valid:  # the SDK may be off, whatever the settings say
            id = format_trace_id(context.trace_id)
            onward = {"traceparent": f"00-{id}-{context.span_id:016x}-{context.trace_flags:02x}"}
            if context.trace_state:
                onward["tracestate"] = context.trace_state.to_header()
        self._tokens = carried.set(onward), logs.trace_id.set(id)

    def end(self, ending: Ending) -> None:
        carried.reset(self._tokens[0])
        logs.trace_id.reset(self._tokens[1])
        span = self._span
        if not isinstance(span, SdkSpan) or not span.is_recording():  # not sampled
            return
        asked_for = str(ending.fields.get("model") or self._model)[:_ATTRIBUTE_CHARS]
        span.update_name(f"{self._operation} {asked_for}")
        span.set_attributes(
            {
                "gen_ai.request.model": asked_for,
                "gen_ai.response.model": self._model,
                **_facts(ending),
                **_durations(ending.stats),
            }
        )
        if ending.at_fault:
            span.set_status(Status(StatusCode.ERROR))
        for name, at in _moments(ending.stats):
            span.add_event(name, timestamp=self._wall_ns + int((at - self._began) * 1e9))
        span.end()


def _facts(ending: Ending) -> dict[str, AttributeValue]:
    stats, fields = ending.stats, ending.fields
    sampling = stats.sampling
    known: dict[str, Any] = {
        "gen_ai.provider.name": "sglang",
        "gen_ai.response.id": ending.id,
        "gen_ai.request.max_tokens": fields.get("max_tokens"),
        "gen_ai.request.choice.count": fields.get("n"),
        "gen_ai.request.stream": fields.get("stream"),
        "gen_ai.usage.input_tokens": stats.prompt_tokens,
        "gen_ai.usage.output_tokens": stats.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": stats.cached_tokens,
        "gen_ai.response.finish_reasons": [stats.finish_reason] if stats.finish_reason else None,
        "http.request.method": ending.method,
        "http.response.status_code": ending.status,
        "error.type": ending.error,
    }
    if sampling is not None:
        for name in ("temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty",
                     "seed"):  # fmt: skip
            known[f"gen_ai.request.{name}"] = getattr(sampling, name, None)
    return {name: value for name, value in known.items() if value is not None}


def _moments(stats: RequestStats) -> Iterator[tuple[str, float]]:
    """What happened, and when."""
    if stats.prepared is not None:
        yield "prompt ready", stats.prepared
    if stats.entered is not None:
        yield "engine entered", stats.entered
    if stats.first_token is not None:
        yield "first token", stats.first_token
        yield "last token", stats.last_token


def _durations(stats: RequestStats) -> dict[str, AttributeValue]:
    seconds: dict[str, AttributeValue] = {
        f"serve_hathora.{name}_s": round(took_s, 6) for name, took_s in stats.phases()
    }
    if stats.first_token is not None:
        seconds["gen_ai.response.time_to_first_chunk"] = stats.first_token - stats.arrived
    return seconds


def _carrier(headers: Iterable[tuple[bytes, bytes]]) -> Mapping[str, str]:
    """The client's headers that say which trace it is in. Of two `traceparent` none is believed."""
    found: dict[str, str] = {}
    for raw_name, value in headers:
        if raw_name in (b"traceparent", b"tracestate"):
            name = raw_name.decode()
            if name in found or len(value) > _LONGEST[name]:
                return {}
            found[name] = value.decode("latin-1")
    return found


def _headers(settings: Settings) -> Mapping[str, str] | None:
    """Of the exporter's requests. They are read here and not by the SDK: they may be keys, which
    are taken out of the environment before the engine starts."""
    given = settings.otel_exporter_otlp_traces_headers or settings.otel_exporter_otlp_headers
    return None if given is None else parse_env_headers(given.get_secret_value(), liberal=True)


def _resource() -> Resource:
    resource = Resource.create(
        {"service.version": __version__, "service.instance.id": str(uuid.uuid4())}
    )
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "serve-hathora"}))
    return resource


class _Seldom(logging.Filter):
    """Lets one record through now and then."""

    def __init__(self) -> None:
        super().__init__()
        self._last = -_COMPLAINTS_S

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now - self._last < _COMPLAINTS_S:
            return False
        self._last = now
        return True
