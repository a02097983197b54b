"""The parts of the SGLang adapter that need no SGLang."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from app.engine.sglang import adapter as sglang
from app.engine.sglang.endings import end_of
from app.engine.sglang.options import check_reserved
from app.errors import ConfigError, InternalError, InvalidRequest, Overloaded, ServeError


@pytest.mark.parametrize(
    ("finish", "error"),
    [
        ({"type": "abort", "message": "m", "status_code": 400}, InvalidRequest),
        ({"type": "abort", "message": "m", "status_code": 503}, Overloaded),
        ({"type": "abort", "message": "m", "status_code": 500}, InternalError),
        ({"type": "abort", "message": "m"}, InternalError),
        ({"type": "stop", "matched": "NaN happened"}, InternalError),
    ],
)
def test_an_abort_is_an_error_and_never_a_finish(
    finish: dict[str, object], error: type[ServeError]
) -> None:
    with pytest.raises(error):
        end_of(finish)


def test_a_finish_says_what_matched() -> None:
    assert end_of({"type": "stop", "matched": 2}) == ("stop", 2)
    assert end_of({"type": "length", "length": 7}) == ("length", None)


@pytest.mark.parametrize("name", ["incremental_streaming_output", "model_path", "device"])
def test_engine_args_cannot_undo_what_the_adapter_needs(name: str) -> None:
    with pytest.raises(ConfigError, match=f"ENGINE_ARGS: {name} cannot be set here"):
        check_reserved({name: False})


def test_an_engine_that_was_idle_is_not_taken_for_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 10_000.0
    monkeypatch.setattr(sglang.time, "monotonic", lambda: now)
    engine = object.__new__(sglang.SGLangEngine)
    engine._exchange = SimpleNamespace(heard_at=now - 3600)
    engine._in_flight, engine._asked_since = 0, 0.0
    assert engine.silent_s() == 0
    engine._in_flight, engine._asked_since = 1, now - 2
    assert engine.silent_s() == 2
