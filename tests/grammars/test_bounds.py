"""How large a schema or pattern may be."""

from __future__ import annotations

import time
from typing import Any

import pytest

from app.errors import InvalidRequest
from app.grammars.bounds import check_regex, check_schema
from app.settings.bounds import GrammarBounds

BOUNDS = GrammarBounds(
    max_schema_bytes=65_536,
    max_schema_depth=32,
    max_schema_nodes=1000,
    max_schema_enum=500,
    max_regex_chars=1024,
    max_regex_repeat=1000,
)


def _nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels - 1):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        (_nested(32), _nested(33)),
        ({"enum": list(range(500))}, {"enum": list(range(501))}),
        ({"anyOf": [{}] * 998}, {"anyOf": [{}] * 999}),
        ({"title": "x" * 65_500}, {"title": "x" * 65_600}),
        ({"pattern": "a" * 1024}, {"pattern": "a" * 1025}),
        ({"pattern": "a{1,1000}"}, {"pattern": "a{1,1001}"}),
        ({"pattern": "a{1000}"}, {"pattern": "a{1001}"}),
        ({"pattern": "a{1000}"}, {"pattern": "a{ , 99999999999}"}),
        ({"pattern": "a"}, {"items": {"pattern": "\0"}}),
    ],
)
def test_each_bound_holds_to_the_last(inside: Any, outside: Any) -> None:
    check_schema(inside, BOUNDS, param="x")
    with pytest.raises(InvalidRequest) as refused:
        check_schema(outside, BOUNDS, param="x")
    assert refused.value.param == "x"
    assert len(refused.value.message) < 200


def test_depth_costs_no_stack() -> None:
    with pytest.raises(InvalidRequest):
        check_schema(_nested(100_000), BOUNDS, param="x")


def test_a_pattern_is_checked_in_linear_time() -> None:
    started = time.thread_time()
    with pytest.raises(InvalidRequest):
        check_regex("{" * 1_000_000, BOUNDS, param="x")
    assert time.thread_time() - started < 0.5
