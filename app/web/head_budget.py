"""How much one request may send before the application sees it: bytes, fields, pieces of a body.

Pure counting, without sockets: web/connection.py feeds it from the parser's callbacks.
"""

from __future__ import annotations

from app.errors import BodyTooLarge, HeadersTooLarge

_NOT_COUNTED = 64
"""Method, HTTP version and the empty line: the parser receives these and hands none of them out."""
_SMALL_BYTES = 1024
"""Less than a packet of the network has."""
SEPARATORS = 4
"""Of each field: `: ` and the line's end."""


class HeadBudget:
    """Counts the request that a connection is reading; after its head, the trailers of its body.

    `receive` counts the bytes that go into the parser, `add` those that come out. The difference is
    what the parser may be holding: a field that never ends.
    """

    __slots__ = (
        "_body_bytes", "_fields", "_head_bytes", "_max_bytes", "_max_fields", "_max_pieces",
        "_pieces", "unparsed_bytes",
    )  # fmt: skip

    def __init__(self, *, max_bytes: int, max_fields: int, max_pieces: int) -> None:
        self._max_bytes = max_bytes
        self._max_fields = max_fields
        self._max_pieces = max_pieces
        self._fields = 0
        self._head_bytes = 0
        """Of the URL and of each complete field; after the head, of the trailers."""
        self._pieces = self._body_bytes = 0
        self.unparsed_bytes = 0
        """Received, and not handed out by the parser."""

    def receive(self, size: int) -> None:
        self.unparsed_bytes += size

    def add(self, size: int, *, fields: int = 0) -> None:
        """Count so many bytes that the parser has handed out. Raises HeadersTooLarge."""
        self._fields += fields
        self._head_bytes += size
        unparsed = self.unparsed_bytes - size
        self.unparsed_bytes = unparsed if unparsed > 0 else 0
        if self._head_bytes > self._max_bytes or self._fields > self._max_fields:
            raise self._headers_too_large()

    def end_head(self) -> None:
        """Count anew, for the trailers."""
        self._fields = self._head_bytes = self.unparsed_bytes = 0

    def add_piece(self) -> None:
        """Raises BodyTooLarge. An upload may have any number of pieces that are not small."""
        self._body_bytes += self.unparsed_bytes
        self.unparsed_bytes = 0
        self._pieces += 1
        if self._pieces > self._max_pieces + self._body_bytes // _SMALL_BYTES:
            raise BodyTooLarge(f"The request's body comes in over {self._max_pieces} pieces.")

    def end_message(self) -> None:
        """Count anew, for the next request.

        Where in the last read that request began is not known: the rest of the read goes uncounted
        until the parser hands out a part of it.
        """
        self._fields = self._head_bytes = self._pieces = self._body_bytes = 0
        self.unparsed_bytes = 0

    def check_unparsed(self) -> None:
        """To be called after each read. Raises HeadersTooLarge."""
        if self._head_bytes + self.unparsed_bytes > self._max_bytes + _NOT_COUNTED:
            raise self._headers_too_large()

    def _headers_too_large(self) -> HeadersTooLarge:
        return HeadersTooLarge(
            f"The request's line and headers are over {self._max_bytes} bytes "
            f"(MAX_HEADER_BYTES) or over {self._max_fields} fields (MAX_HEADERS)."
        )
