"""Which columns of the engine's output messages are decoded, and how.

Once per step SGLang's detokenizer sends one `BatchStrOutput` of some sixty columns, each with a row
for each request. The columns of `_COLUMNS` are decoded with the message. Each other one stays
encoded until the first row needs it.

Written against sglang 0.5.23; `tests/engine/test_sglang_contract.py` fails first when it changes.
"""

from __future__ import annotations

from typing import Any

import msgspec

from app.engine.sglang.cells import Cells

_COLUMNS: dict[str, Any] = {
    "rids": list[str],
    "finished_reasons": list[dict[str, Any] | None],
    "output_strs": list[str],
    "prompt_tokens": list[int],
    "completion_tokens": list[int],
    "reasoning_tokens": list[int],
    "cached_tokens": list[int],
}
"""Decoded in every message."""


class Columns:
    """Decodes `BatchStrOutput` messages."""

    def __init__(self, message: Any) -> None:
        """`message`: the class `BatchStrOutput`."""
        self.prefix = _prefix(message)
        """The first bytes of each such message."""
        self.decode = msgspec.msgpack.Decoder(_batch_type(message)).decode
        """Bytes of a message -> a batch: an object with the columns as attributes."""
        self._cells = Cells()

    def cell(self, batch: Any, name: str, row: int) -> Any:
        """One row of a column that is not decoded with the message; None if the column is empty.

        The column is decoded once, when the first row of a message needs it.
        """
        column = getattr(batch, name)
        if type(column) is msgspec.Raw:
            column = self._cells.column(name, column)
            setattr(batch, name, column)
        return column[row] if column and row < len(column) else None


def _batch_type(message: Any) -> Any:
    """SGLang's message with the columns of `_COLUMNS`; the others stay encoded."""
    columns = [
        (field.name, _COLUMNS.get(field.name, msgspec.Raw))
        for field in msgspec.structs.fields(message)
    ]
    return msgspec.defstruct("Batch", columns, array_like=True, tag=message.__name__, gc=False)


def _prefix(message: Any) -> bytes:
    """The header of a msgpack array of 16-bit length, and its first element: the class's name."""
    length = len(msgspec.structs.fields(message)) + 1
    name: bytes = message.__name__.encode()
    return b"\xdc" + length.to_bytes(2, "big") + bytes([0xA0 | len(name)]) + name
