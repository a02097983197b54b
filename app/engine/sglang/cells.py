"""SGLang's columns, decoded from its messages: one by one, and the long ones a position at a time.

A prompt of 128,000 tokens has as many lists of alternatives, and to make them all takes 150 ms of
the event loop. So they stay encoded until they are read, which those who write the answer do in
parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

import msgspec

_LONG = frozenset({"input_top_logprobs_val", "input_top_logprobs_idx"})
"""Columns whose cells have a list for each token of a prompt."""


class Cells:
    """Decodes columns: a list with a cell for each request of a message."""

    def __init__(self) -> None:
        from sglang.srt.utils.msgpack_utils import ext_hook

        self._decode = msgspec.msgpack.Decoder(ext_hook=ext_hook).decode
        self._decode_long = msgspec.msgpack.Decoder(list[list[msgspec.Raw] | None] | None).decode

    def column(self, name: str, raw: msgspec.Raw) -> list[Any] | None:
        """The column of that name. SGLang leaves out some that no request needs, as None."""
        if name not in _LONG:
            column: list[Any] | None = self._decode(raw)
            return column
        long = self._decode_long(raw)
        return long and [cell and Encoded(cell, self._decode) for cell in long]


class Encoded(Sequence[Any]):
    """Decodes its items whenever they are read. Keeps the message that they came with."""

    def __init__(self, items: list[msgspec.Raw], decode: Callable[[msgspec.Raw], Any]) -> None:
        self._items = items
        self._decode = decode

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, place: int) -> Any: ...
    @overload
    def __getitem__(self, place: slice) -> list[Any]: ...
    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return list(map(self._decode, self._items[place]))
        return self._decode(self._items[place])
