"""Spans of RunPod's jobs."""

from __future__ import annotations

import pytest

from app.runpod.upstream import UpstreamBackend
from tests.runpod.station import HI, working
from tests.support.collector import collecting
from tests.support.scripted import ScriptedEngine
from tests.support.serving import eventually, serve, settings


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setattr("app.logs.setup._shows_traces", False)


async def test_a_job_has_a_span() -> None:
    with collecting() as collector:
        async with working(
            ScriptedEngine("hi"), OTEL_EXPORTER_OTLP_ENDPOINT=collector.url
        ) as station:
            job = await station.ask({"messages": HI})
            await station.ask({"openai_route": "/v1/models"})
            await eventually(lambda: bool(collector.spans))
    (span,) = collector.spans
    assert job.output
    assert span.attributes["http.route"] == "/v1/chat/completions"
    assert span.attributes["gen_ai.usage.output_tokens"] == 1
    assert [name for name, _ in span.events][-1] == "last token"


async def test_the_server_behind_a_worker_continues_the_jobs_trace() -> None:
    with collecting() as collector:
        there = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        async with serve(ScriptedEngine("hi"), **there) as running:
            here = {"SGLANG_BASE_URL": f"http://127.0.0.1:{running.port}", **there}
            backend = UpstreamBackend(settings(**here))
            async with working(backend=backend, **here) as station:
                await station.ask({"messages": HI})
            await backend.close()
            await eventually(lambda: len(collector.spans) == 2)
            assert running.serving.tracing is not None
            await running.serving.tracing.close()
    job = next(each for each in collector.spans if not each.parent_id)
    server = next(each for each in collector.spans if each.parent_id)
    assert (server.trace_id, server.parent_id) == (job.trace_id, job.span_id)
