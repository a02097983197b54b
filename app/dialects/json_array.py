"""JSON arrays that grow while an answer is made, and JSON that has such arrays in it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import orjson

from app.types import Json


class JsonArray:
    """Kept encoded: less memory than its items, and no work is left for the answer's end."""

    def __init__(self) -> None:
        self._items = bytearray()

    def __len__(self) -> int:
        """Bytes so far."""
        return len(self._items)

    def extend(self, items: Sequence[Any]) -> None:
        if items:
            self._items += b"," if self._items else b""
            self._items += orjson.dumps(items)[1:-1]

    @property
    def parts(self) -> tuple[bytes, bytearray, bytes]:
        return b"[", self._items, b"]"


def encoded(value: Json | list[Json]) -> bytes:
    """JSON of a value that may have arrays in it."""
    return orjson.dumps(value, default=_fragment)


def encoded_parts(value: Json | list[Json]) -> list[bytes | bytearray]:
    """The same in parts, with the arrays as they are: hundreds of megabytes are not copied."""
    arrays: list[JsonArray] = []
    place = secrets.token_hex(16)  # no text of a model can be the same

    def placed(array: Any) -> str:
        if not isinstance(array, JsonArray):
            raise TypeError(f"{type(array).__name__} has no JSON")
        arrays.append(array)
        return place

    first, *rest = orjson.dumps(value, default=placed).split(f'"{place}"'.encode())
    parts: list[bytes | bytearray] = [first]
    for array, after in zip(arrays, rest, strict=True):
        parts += (*array.parts, after)
    return parts


def _fragment(array: Any) -> orjson.Fragment:
    if not isinstance(array, JsonArray):
        raise TypeError(f"{type(array).__name__} has no JSON")
    return orjson.Fragment(b"".join(array.parts))
