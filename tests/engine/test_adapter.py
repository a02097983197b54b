"""The SGLang adapter, without an engine."""

from __future__ import annotations

from types import SimpleNamespace

import pytest


@pytest.mark.full
def test_an_engine_that_was_idle_is_not_taken_for_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    from app.engine.sglang import adapter

    now = 10_000.0
    monkeypatch.setattr(adapter.awake, "now", lambda: now)
    engine = object.__new__(adapter.SGLangEngine)
    exchange = SimpleNamespace(heard_at=now - 3600, owes=False, asked_at=0.0, searches=False)
    pulse = SimpleNamespace(stopped=False, worked_at=0.0, slowest_at=None)
    engine._exchange, engine._pulse = exchange, pulse  # type: ignore[assignment]
    engine._profiler = SimpleNamespace(is_busy=False, ended_at=0.0)
    engine._embeddings, engine._embeddings_since = 0, 0.0
    engine._excused_s, engine._one_node = 600.0, True
    assert engine.silent_s() == 0
    exchange.owes, exchange.asked_at = True, now - 2
    assert engine.silent_s() == 2
    exchange.asked_at = now - 3000
    pulse.worked_at = now - 1  # a long prefill, which excuses ten minutes
    assert engine.silent_s() == 2400
    exchange.searches = True  # of beams nothing comes before their end
    assert engine.silent_s() == 1
    exchange.searches = False
    pulse.worked_at = exchange.heard_at = now - 100
    assert engine.silent_s() == 100
    engine._profiler.is_busy = True  # no process of the server takes it for a hang
    assert 0 < engine.silent_s() < 1e-6
    exchange.owes, engine._profiler.is_busy = False, False  # a client reads what is left
    assert engine.silent_s() == 0
