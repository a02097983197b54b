"""Spans of requests that a lost engine has ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from app.awake import AWAKE
from app.life import service as life
from app.life.service import Service, live
from app.lifecycle import Phase
from app.stats import RequestStats
from app.tracing.spans import Ending
from tests.support.collector import collecting
from tests.support.serving import settings


class Exited(Exception):
    pass


class Work:
    extra_drain_s = extra_answers_s = 0.0
    closable = True

    def __init__(self, service: Service) -> None:
        self._service = service

    async def start(self) -> asyncio.Task[None]:
        self._running = asyncio.create_task(asyncio.sleep(60))
        self._service.lifecycle.enter(Phase.DEAD, "the engine is gone")
        return self._running

    def stop_taking(self) -> None:
        pass

    async def drained(self) -> None:
        pass

    def fail_rest(self, error: Callable[[], Exception]) -> int:
        assert self._service.tracing is not None
        route = "/v1/completions"
        span = self._service.tracing.begin("text_completion", route, [], time.perf_counter())
        stats = RequestStats()
        span.end(Ending("id", route, "POST", 503, "engine_died", True, stats, {}))
        return 1

    async def close(self) -> None:
        self._running.cancel()


async def _nothing(*_: object) -> None:
    pass


async def test_they_are_exported_before_the_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    def exit_now(code: int, cleanup: object) -> None:
        raise Exited(code)

    monkeypatch.setattr(life, "exit_now", exit_now)
    monkeypatch.setattr("app.logs.setup._shows_traces", False)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    control: Any = SimpleNamespace(
        peers=None, requested=asyncio.Event(), requested_at=0.0,
        open=_nothing, leave=_nothing, drained=_nothing,
    )  # fmt: skip
    with collecting() as collector:
        configured = settings(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
        service = Service(configured, _nothing, control, lambda: None)  # type: ignore[arg-type]
        work = Work(service)
        try:
            with pytest.raises(Exited, match="70"):
                await live(work, service)
        finally:
            AWAKE.stop()
            await work.close()
    (span,) = collector.spans
    assert span.attributes["error.type"] == "engine_died"
