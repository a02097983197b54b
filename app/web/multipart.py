"""A form with one file, `multipart/form-data`, read as it comes.

Source: RFC 7578. Parsed by python-multipart, written against 0.0.34: its parser keeps at most a
boundary's length of what it is fed. What else is kept here is bounded: the fields, and the headers
of one part.
"""

from __future__ import annotations

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.errors import InvalidRequest

_MAX_PARTS = 32
_MAX_FIELD_BYTES = 4096
_MAX_HEADERS = 8
_MAX_HEADER_BYTES = 4096
_AS_IT_IS = (b"", b"binary", b"8bit", b"7bit")
OVERHEAD_BYTES = _MAX_PARTS * (_MAX_FIELD_BYTES + _MAX_HEADERS * _MAX_HEADER_BYTES)
"""That a form may have beside its file."""


class Form:
    """The fields, and the one file, whose bytes `feed` gives out."""

    def __init__(self, content_type: str, *, file_field: str) -> None:
        """Raises InvalidRequest."""
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not boundary:
            raise _malformed("must be multipart/form-data, with a boundary")
        self.fields: dict[str, str] = {}
        """Without the file; of several with one name the last."""
        self.filename: str | None = None
        """None: the file has not begun."""
        self._file_field = file_field
        self._pieces: list[bytes] = []
        self._parts = 0
        self._other_bytes = 0
        self._name: str | None = None
        """Of the field that is being read; None: it is the file."""
        self._value = bytearray()
        self._header_name, self._header_value = bytearray(), bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._add_header_name,
                    "on_header_value": self._add_header_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._add_content,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
                max_header_count=_MAX_HEADERS,
                max_header_size=_MAX_HEADER_BYTES,
            )
        except FormParserError:
            raise _malformed("has a boundary that is too long") from None

    def feed(self, data: bytes) -> list[bytes]:
        """Returns what of the file is in it. Raises InvalidRequest."""
        try:
            if not self._ended:  # RFC 2046 allows an epilogue, which is of no use
                self._parser.write(data)
        except FormParserError as error:
            raise _malformed(f"is not valid: {ascii(str(error))[1:-1][:100]}") from None
        pieces, self._pieces = self._pieces, []
        self._other_bytes += len(data) - sum(map(len, pieces))
        if self._other_bytes > OVERHEAD_BYTES:
            raise _malformed(f"has over {OVERHEAD_BYTES} bytes beside its file")
        return pieces

    def close(self) -> None:
        """It is complete. Raises InvalidRequest."""
        if not self._ended:
            raise _malformed("ends before its last boundary")
        if self.filename is None:
            raise InvalidRequest(
                f"Missing required parameter: '{self._file_field}'.",
                param=self._file_field,
                code="missing_required_parameter",
            )

    # -- the parser's callbacks ------------------------------------------------------------------

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise _malformed(f"has over {_MAX_PARTS} parts")
        self._headers = {}
        self._value.clear()

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        self._headers[bytes(self._header_name).lower()] = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _end_headers(self) -> None:
        described = self._headers.get(b"content-disposition", b"").decode("latin-1")
        kind, options = parse_options_header(described)
        if kind != b"form-data" or b"name" not in options:
            raise _malformed("has a part without 'Content-Disposition: form-data' and a name")
        if self._headers.get(b"content-transfer-encoding", b"").lower() not in _AS_IT_IS:
            raise _malformed("has a part that is encoded; parts are taken as they are")
        name = _text(options[b"name"])
        if name != self._file_field:
            self._name = name
            return
        if self.filename is not None:
            raise InvalidRequest(
                f"Invalid value for '{name}': must be one file, and not several.", param=name
            )
        if b"filename" not in options:
            raise InvalidRequest(
                f"Invalid value for '{name}': must be a file, with a filename.", param=name
            )
        self._name = None
        self.filename = _unescaped(_text(options[b"filename"]))

    def _add_content(self, data: bytes, start: int, end: int) -> None:
        if self._name is None:
            self._pieces.append(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > _MAX_FIELD_BYTES:
            name = self._name[:100]
            raise InvalidRequest(
                f"Invalid value for '{name}': must have at most {_MAX_FIELD_BYTES} bytes.",
                param=name,
            )

    def _end_part(self) -> None:
        if self._name is not None:
            self.fields[self._name] = _text(bytes(self._value))

    def _end(self) -> None:
        self._ended = True


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _unescaped(filename: str) -> str:
    """As the HTML standard has browsers and httpx write these in a name."""
    return filename.replace("%22", '"').replace("%0D", "").replace("%0A", "")


def _malformed(problem: str) -> InvalidRequest:
    return InvalidRequest(f"The request's body {problem}.", code="invalid_multipart")
