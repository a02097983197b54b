"""Spans of requests over HTTP, as a collector gets them."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.errors import ConfigError, EngineDied
from app.logs import setup as logs
from app.recent_errors import RecentErrors
from app.tracing import otlp
from app.tracing.opening import tracing_of
from app.tracing.spans import OPERATIONS, carried
from tests.support.collector import Collector, Seen, collecting
from tests.support.scripted import ScriptedEngine
from tests.support.serving import Running, eventually, serve, settings
from tests.web.test_health_check import free_port

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSET, ERROR = 0, 2
SERVER = 2


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setattr("app.logs.setup._shows_traces", False)


@asynccontextmanager
async def traced(
    engine: Any = None, **environment: str
) -> AsyncIterator[tuple[Running, Collector]]:
    with collecting() as collector:
        async with serve(
            engine or ScriptedEngine("Hel", "lo"),
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            **environment,
        ) as running:
            try:
                yield running, collector
            finally:
                assert running.serving.tracing is not None
                await running.serving.tracing.close()


async def only(collector: Collector) -> Seen:
    await eventually(lambda: bool(collector.spans))
    (span,) = collector.spans
    return span


async def test_a_request_has_a_span_with_what_it_asked_and_what_it_cost() -> None:
    async with traced(SERVED_MODEL_NAME="tiny") as (running, collector):
        before_ns = time.time_ns()
        answer = await running.chat(
            "the secret prompt", model="tiny", max_tokens=7, temperature=0.5, top_p=0.9, seed=3
        )
        span = await only(collector)
    assert (span.name, span.kind, span.status) == ("chat tiny", SERVER, UNSET)
    assert before_ns <= span.began_ns <= span.ended_ns <= time.time_ns()
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "sglang",
        "gen_ai.request.model": "tiny",
        "gen_ai.response.model": "tiny",
        "gen_ai.request.max_tokens": 7,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.seed": 3,
        "gen_ai.response.id": answer.headers["x-request-id"],
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": answer.json()["usage"]["prompt_tokens"],
        "gen_ai.usage.output_tokens": answer.json()["usage"]["completion_tokens"],
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
    }
    assert expected.items() <= span.attributes.items()
    assert span.resource["service.name"] == "serve-hathora"
    everything = json.dumps([span.attributes, span.events, span.name])
    assert "secret" not in everything
    assert "Hello" not in everything


async def test_its_events_are_in_their_order_within_it() -> None:
    gate = asyncio.Event()
    async with traced(ScriptedEngine("a", gate, "b")) as (running, collector):
        asking = asyncio.create_task(running.chat(stream=True))
        await asyncio.sleep(0.2)
        gate.set()
        await asking
        span = await only(collector)
    names = [name for name, _ in span.events]
    assert names == ["prompt ready", "engine entered", "first token", "last token"]
    times = [span.began_ns, *(at for _, at in span.events), span.ended_ns]
    assert times == sorted(times)
    decode_s = span.attributes["serve_hathora.decode_s"]
    assert 0.15 < decode_s < 20
    assert span.attributes["gen_ai.request.stream"] is True


async def test_a_span_continues_the_clients_trace() -> None:
    async with traced() as (running, collector):
        await running.client.post(
            "/v1/completions",
            json={"model": "default", "prompt": "hi"},
            headers={"traceparent": PARENT, "tracestate": "vendor=1"},
        )
        span = await only(collector)
    assert (span.trace_id, span.parent_id) == (PARENT[3:35], PARENT[36:52])
    assert span.state == "vendor=1"
    assert span.attributes["gen_ai.operation.name"] == "text_completion"


@pytest.mark.parametrize(
    "headers",
    [
        [("traceparent", "")],
        [("traceparent", "00-" + "0" * 32 + "-b7ad6b7169203331-01")],
        [("traceparent", "ff" + PARENT[2:])],
        [("traceparent", PARENT[:-1])],
        [("traceparent", "x" * 9000)],
        [("traceparent", PARENT), ("traceparent", PARENT.replace("b7", "c7"))],
        [("traceparent", "\u00e9" * 55)],
        [("traceparent", PARENT), ("tracestate", "a=" + "b" * 600)],
    ],
)
async def test_a_header_that_is_wrong_begins_a_trace_anew(
    headers: list[tuple[str, str]],
) -> None:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    async with traced() as (running, collector):
        answer = await running.client.post(
            "/v1/completions", json={"model": "default", "prompt": "hi"}, headers=raw
        )
        span = await only(collector)
    assert answer.status_code == 200
    assert span.parent_id == ""
    assert span.trace_id not in ("0" * 32, PARENT[3:35])


async def test_a_clients_state_is_not_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with traced() as (running, collector):
        for state in ("forged text", "a=1,a=2", "A=1", ",".join(f"k{n}=1" for n in range(40))):
            await running.client.post(
                "/v1/completions",
                json={"model": "default", "prompt": "hi"},
                headers={"traceparent": PARENT, "tracestate": state},
            )
        await eventually(lambda: len(collector.spans) == 4)
    assert {span.trace_id for span in collector.spans} == {PARENT[3:35]}
    assert not [each for each in caplog.records if each.name.startswith("opentelemetry")]


async def test_a_client_that_does_not_sample_is_not_sampled() -> None:
    async with traced() as (running, collector):
        await running.client.post(
            "/v1/completions",
            json={"model": "default", "prompt": "hi"},
            headers={"traceparent": PARENT[:-2] + "00"},
        )
        await running.chat()
        span = await only(collector)
    assert span.attributes["gen_ai.operation.name"] == "chat"


async def test_the_sampler_is_the_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    async with traced() as (running, collector):
        assert (await running.chat()).status_code == 200
        await asyncio.sleep(0.2)
    assert collector.spans == []


async def test_names_and_attributes_of_the_service_are_the_operators(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "my-llm")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    async with traced() as (running, collector):
        await running.chat()
        span = await only(collector)
    assert span.resource["service.name"] == "my-llm"
    assert span.resource["deployment.environment.name"] == "test"


async def test_headers_for_the_collector_are_sent() -> None:
    async with traced(OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20abc,x-tenant=1") as (
        running,
        collector,
    ):
        await running.chat()
        await only(collector)
    (headers, *_) = collector.headers
    assert (headers["authorization"], headers["x-tenant"]) == ("Bearer abc", "1")


async def test_an_error_of_the_server_is_an_error_of_the_span() -> None:
    engine = ScriptedEngine("a", EngineDied("gone"))
    async with traced(engine) as (running, collector):
        answer = await running.chat(stream=True)
        span = await only(collector)
    assert answer.status_code in (200, 503)
    assert span.status == ERROR
    assert span.attributes["error.type"] == EngineDied("x").code


async def test_an_error_of_the_client_is_not() -> None:
    async with traced() as (running, collector):
        answer = await running.chat(n=1_000_000)
        span = await only(collector)
    assert (answer.status_code, span.status) == (400, UNSET)
    assert span.attributes["error.type"] == "integer_above_max_value"
    assert span.attributes["http.response.status_code"] == 400


async def test_requests_that_generate_nothing_have_no_span() -> None:
    async with traced() as (running, collector):
        await running.client.get("/v1/models")
        await running.client.get("/health")
        await running.client.post("/tokenize", json={"text": "hi"})
        await running.client.get("/v1/chat/completions")
        await running.chat()
        span = await only(collector)
    assert span.name.startswith("chat")


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}])
async def test_a_request_without_a_key_has_no_span_whatever_trace_it_names(
    headers: dict[str, str],
) -> None:
    traces: list[str | None] = []
    noted = RecentErrors.note

    def note(self: RecentErrors, **fields: Any) -> None:
        traces.append(logs.trace_id.get())
        noted(self, **fields)

    asked = {"json": {"model": "default", "prompt": "hi"}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RecentErrors, "note", note)
        async with traced(API_KEY="right") as (running, collector):
            for path in OPERATIONS:
                sent = {**headers, "traceparent": PARENT}
                answer = await running.client.post(path, headers=sent, **asked)
                assert answer.status_code == 401
            key = {"authorization": "Bearer right"}
            await running.client.post("/v1/completions", headers=key, **asked)
            span = await only(collector)
    assert set(traces) == {None}
    assert span.attributes["http.response.status_code"] == 200


async def test_a_request_to_the_health_port_has_no_span() -> None:
    port = free_port()
    async with traced(PORT_HEALTH=str(port)) as (running, collector):
        url = f"http://127.0.0.1:{port}/v1/completions"
        answer = await running.client.post(url, headers={"traceparent": PARENT})
        await running.chat()
        span = await only(collector)
    assert answer.status_code == 404
    assert span.name.startswith("chat")


async def test_log_lines_have_the_traces_id() -> None:
    from app.logs.setup import _Completed

    lines: list[dict[str, Any]] = []

    class Span(otlp.OtlpSpan):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            lines.append(dict(_Completed(None)(None, "info", {"event": "x"})))
            lines.append({"carried": carried.get()})

    async with traced() as (running, collector):
        otlp_span, otlp.OtlpSpan = otlp.OtlpSpan, Span  # type: ignore[misc]
        try:
            await running.chat()
        finally:
            otlp.OtlpSpan = otlp_span  # type: ignore[misc]
        span = await only(collector)
    assert lines[0]["trace_id"] == span.trace_id
    onward = lines[1]["carried"]["traceparent"]
    assert onward.startswith(f"00-{span.trace_id}-{span.span_id}-")
    assert carried.get() is None


@pytest.mark.parametrize("collector", ["dead", "hanging", "refusing"])
async def test_a_collector_that_is_of_no_use_costs_requests_and_the_end_nothing(
    collector: str, caplog: pytest.LogCaptureFixture
) -> None:
    released = threading.Event()
    with collecting(
        status=400 if collector == "refusing" else 200,
        hangs=released if collector == "hanging" else None,
    ) as there:
        url = there.url
        if collector == "dead":
            with socket.create_server(("127.0.0.1", 0)) as listener:
                url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with serve(ScriptedEngine("hi"), OTEL_EXPORTER_OTLP_ENDPOINT=url) as running:
            for _ in range(50):
                began = time.perf_counter()
                assert (await running.chat()).status_code == 200
                assert time.perf_counter() - began < 5
            await asyncio.sleep(0.1)
            began = time.perf_counter()
            assert running.serving.tracing is not None
            await running.serving.tracing.close()
            assert time.perf_counter() - began < 5
        released.set()
    said = [each for each in caplog.records if each.name.startswith("opentelemetry")]
    assert len(said) <= 2


async def test_what_is_left_is_exported_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    async with traced() as (running, collector):
        await running.chat()
        assert collector.spans == []
    assert len(collector.spans) == 1


async def test_a_package_that_is_missing_is_told_and_the_server_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "app.tracing.otlp", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with capture_logs() as lines:
        async with serve(
            ScriptedEngine("hi"), OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9"
        ) as running:
            assert (await running.chat()).status_code == 200
    events = [each["event"] for each in lines if each["log_level"] == "warning"]
    assert "there are no traces: a package is missing" in events


def test_without_a_collector_nothing_of_opentelemetrys_sdk_is_imported() -> None:
    assert tracing_of(settings()) is None
    script = (
        "import sys, app.web.server, app.tracing.opening, app.tracing.spans\n"
        "print([each for each in sys.modules if each.startswith('opentelemetry.sdk')\n"
        "       or each.startswith('opentelemetry.exporter')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL='grpc' is not spoken, only http/protobuf",
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
            },
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL='grpc' is not spoken",
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "must be http"),
    ],
)
def test_a_collector_that_cannot_be_spoken_to_ends_the_start(
    environment: dict[str, str], line: str
) -> None:
    with pytest.raises(ConfigError, match=line):
        settings(**{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317", **environment})


@pytest.mark.parametrize(
    "variable", ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"]
)
@pytest.mark.parametrize(
    "headers", ["sk-secret", "=sk-secret", "a=1,sk-secret", 'k="sk-secret"', "k=sk-secret%0a"]
)
def test_headers_that_are_wrong_are_refused_without_their_text(variable: str, headers: str) -> None:
    with pytest.raises(ConfigError, match=f"^{variable}: must be name=value") as caught:
        settings(OTEL_EXPORTER_OTLP_ENDPOINT="http://collector:4318", **{variable: headers})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("OTEL_BSP_MAX_QUEUE_SIZE", "0"), ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
     ("OTEL_SPAN_EVENT_COUNT_LIMIT", "many")],
)  # fmt: skip
def test_a_value_that_opentelemetry_refuses_ends_the_start(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=r"^OpenTelemetry: "):
        tracing_of(settings(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9"))


async def test_the_collectors_credentials_are_not_in_the_log() -> None:
    with capture_logs() as lines:
        tracing = tracing_of(settings(OTEL_EXPORTER_OTLP_ENDPOINT="http://me:secret@127.0.0.1:9"))
        assert tracing is not None
        await tracing.close()
    assert [each["endpoint"] for each in lines] == ["http://***@127.0.0.1:9/v1/traces"]


@pytest.mark.parametrize(
    ("variable", "value"), [("OTEL_SDK_DISABLED", "True"), ("OTEL_TRACES_EXPORTER", "none")]
)
def test_what_switches_opentelemetry_off_is_honoured(variable: str, value: str) -> None:
    collector = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    off = settings(**collector, **{variable: value, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    with capture_logs() as lines:
        assert tracing_of(off) is None
        assert tracing_of(settings(**{variable: value})) is None
    assert [each["reason"] for each in lines] == [f"{variable} says so"]


async def test_a_span_of_an_sdk_that_is_off_leads_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    tracing = tracing_of(settings(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9"))
    assert tracing is not None
    tracing.begin("chat", "/v1/chat/completions", [], time.perf_counter())
    assert (carried.get(), logs.trace_id.get()) == (None, None)
    await tracing.close()


def test_the_address_for_traces_alone_is_taken_as_it_is() -> None:
    both = settings(
        OTEL_EXPORTER_OTLP_ENDPOINT="http://a:4318/",
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="http://b:4318/x",
    )
    assert both.traces_endpoint == "http://b:4318/x"
    one = settings(OTEL_EXPORTER_OTLP_ENDPOINT="http://a:4318/")
    assert one.traces_endpoint == "http://a:4318/v1/traces"


async def test_server_timing_says_what_the_time_was_for() -> None:
    async with serve(ScriptedEngine("hi"), SERVER_TIMING="true") as running:
        streamed = await running.chat(stream=True)
        models = await running.client.get("/v1/models")
    async with serve(ScriptedEngine("hi")) as running:
        plain = await running.chat()
    names = [each.split(";")[0] for each in streamed.headers["server-timing"].split(", ")]
    assert names == ["prompt", "queue", "prefill", "ttft", "total"]
    assert models.headers["server-timing"].startswith("total;dur=")
    assert "server-timing" not in plain.headers


def test_complaints_of_the_exporter_are_few() -> None:
    seldom = otlp._Seldom()
    record = logging.LogRecord("x", logging.ERROR, "", 0, "down", (), None)
    assert [seldom.filter(record) for _ in range(3)] == [True, False, False]
