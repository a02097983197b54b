"""The parts of the SGLang adapter that need no SGLang."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from app.engine import sglang
from app.engine.launch import _check_reserved
from app.engine.sglang import _chunk
from app.errors import ConfigError, InternalError, InvalidRequest, Overloaded, ServeError


def _piece(finish: dict[str, object] | None) -> dict[str, object]:
    meta = {"finish_reason": finish, "prompt_tokens": 3, "completion_tokens": 2, "cached_tokens": 1}
    return {"text": "x", "output_ids": [1], "meta_info": meta}


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
        _chunk(_piece(finish))


def test_a_finish_says_what_matched() -> None:
    chunk = _chunk(_piece({"type": "stop", "matched": 2}))
    assert (chunk.finish, chunk.matched, chunk.completion_tokens) == ("stop", 2, 2)


@pytest.mark.parametrize("name", ["incremental_streaming_output", "model_path", "device"])
def test_engine_args_cannot_undo_what_the_adapter_needs(name: str) -> None:
    with pytest.raises(ConfigError, match=f"ENGINE_ARGS: {name} cannot be set here"):
        _check_reserved({name: False})


def test_an_engine_that_was_idle_is_not_taken_for_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 10_000.0
    monkeypatch.setattr(sglang.time, "time", lambda: now)
    engine = object.__new__(sglang.SGLangEngine)
    engine._manager = SimpleNamespace(last_receive_tstamp=now - 3600)
    engine._in_flight, engine._asked_since = 0, 0.0
    assert engine.silent_s() == 0
    engine._in_flight, engine._asked_since = 1, now - 2
    assert engine.silent_s() == 2
