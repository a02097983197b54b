"""How SGLang ends a request, as a finish or an error of ours."""

from __future__ import annotations

import pytest

from app.engine.sglang.endings import end_of
from app.errors import InternalError, InvalidRequest, Overloaded, ServeError


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


def test_a_finish_names_the_stop_that_matched() -> None:
    assert end_of({"type": "stop", "matched": 2}) == ("stop", 2)
    assert end_of({"type": "length", "length": 7}) == ("length", None)
