"""The SGLang adapter, without an engine."""

from __future__ import annotations

from types import SimpleNamespace

import pytest


@pytest.mark.full
def test_an_engine_that_was_idle_is_not_taken_for_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    from app.engine.sglang import adapter

    now = 10_000.0
    monkeypatch.setattr(adapter.time, "monotonic", lambda: now)
    engine = object.__new__(adapter.SGLangEngine)
    engine._exchange = SimpleNamespace(heard_at=now - 3600)  # type: ignore[assignment]
    engine._pulse = SimpleNamespace(worked_at=0.0, slowest_at=None)  # type: ignore[assignment]
    engine._profiling = False
    engine._in_flight, engine._asked_since = 0, 0.0
    assert engine.silent_s() == 0
    engine._in_flight, engine._asked_since = 1, now - 2
    assert engine.silent_s() == 2
