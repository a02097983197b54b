"""JSON with growing arrays in it is the same JSON, in one piece or in parts."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dialects.json_array import JsonArray, encoded, encoded_parts

ITEMS = st.lists(st.integers(-9, 9) | st.text(max_size=5) | st.none(), max_size=5)


@given(st.lists(st.lists(ITEMS, max_size=3), max_size=4), st.text())
def test_arrays_stand_where_they_were_put(arrays: list[list[list[Any]]], text: str) -> None:
    kept = [JsonArray() for _ in arrays]
    for array, pieces in zip(kept, arrays, strict=True):
        for piece in pieces:
            array.extend(piece)
    plain = [[item for piece in pieces for item in piece] for pieces in arrays]
    value = {"text": text, "arrays": kept, "nested": {"again": kept}}
    expected = {"text": text, "arrays": plain, "nested": {"again": plain}}
    assert orjson.loads(encoded(value)) == expected
    assert orjson.loads(b"".join(encoded_parts(value))) == expected


def test_what_has_no_json_is_an_error() -> None:
    for encode in (encoded, encoded_parts):
        with pytest.raises(TypeError):
            encode({"x": object()})
