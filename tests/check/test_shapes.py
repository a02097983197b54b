"""Shapes: what fits, and the place that is named when something does not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.check.shapes import Finding, fitting

SHAPE = {"id": str, "end": ("stop", None), "list": [{"no": int}], "kind": "x"}
RIGHT = {"id": "a", "end": None, "list": [{"no": 1, "more": 2}], "kind": "x", "more": 3}


def test_an_answer_with_more_keys_than_the_shape_fits() -> None:
    assert fitting(SHAPE, json.dumps(RIGHT).encode()) == RIGHT


@pytest.mark.parametrize(
    ("change", "error_text"),
    [
        ({"id": 1}, "expected `id` to be a str"),
        ({"end": "length"}, "expected `end` to be one of ('stop', None)"),
        ({"list": [{"no": 1}, {"no": True}]}, "expected `list[1].no` to be a int"),
        ({"list": {}}, "expected `list` to be an array"),
        ({"kind": "y"}, "expected `kind` to be 'x'"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], error_text: str) -> None:
    with pytest.raises(Finding) as finding:
        fitting(SHAPE, json.dumps(RIGHT | change).encode())
    assert str(finding.value).startswith(f"{error_text}, saw ")
