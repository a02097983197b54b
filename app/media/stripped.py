"""A picture's file without what its pixels do not need, before any decoder reads it.

Pillow reads comments, profiles, thumbnails, EXIF and the places of further pictures in Python, some
in quadratic time: ten megabytes of them cost it up to half a minute. None of them changes what the
model sees, but for the orientation, which is read here. Kept is, of

    JPEG   frame, tables, JFIF and Adobe, and all from the first scan on
    PNG    header, palette, transparency, pixels
    GIF    header, palette, what is transparent in the first frame, and all from that frame on
    WEBP   all: it is read in C
"""

from __future__ import annotations

import re

from app.media.orientation import orientation_of

PARTS = 20_000
BYTES_PER_PART = 1_024
"""A file may have so many segments, chunks or blocks, and one more for each of these bytes."""
MAX_SCANS = 64
"""Of a JPEG. Each is a pass over the whole picture, and may be a few bytes; cameras write ten."""
_MAX_TABLES = 2**16
"""Bytes of all that is kept ahead of the first scan: a decoder keeps a list of them."""
_MAX_FILLING = 2**16
"""Bytes between two segments; no segment is as long."""
_MAX_JFIF = 256
"""Bytes: a longer one has a thumbnail."""
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
"""The next one that has a segment, or is the end; what a scan holds has others."""
_SCAN, _END, _JFIF, _EXIF, _ADOBE = 0xDA, 0xD9, 0xE0, 0xE1, 0xEE
_FRAMES = 0xC0
"""The first marker that is not reserved."""
_TABLES = frozenset((*range(0xC0, 0xD0), 0xDB, 0xDC, 0xDD, _ADOBE)) - {0xC8}
_CHUNKS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT"))
_IEND = b"\0\0\0\0IEND\xaeB`\x82"
_EXTENSION, _FRAME, _TRAILER, _CONTROL = b"!", b",", b";", b"\xf9"


class TooMany(Exception):
    """`str()` continues "the picture "."""


class _Counter:
    def __init__(self, data: bytes) -> None:
        self._most = PARTS + len(data) // BYTES_PER_PART
        self._count = 0

    def add(self, count: int = 1) -> None:
        self._count += count
        if self._count > self._most:
            raise TooMany(f"has more than {self._most} parts")


def stripped(data: bytes, format: str) -> tuple[bytes, int]:
    """The file, and its orientation as far as this has looked for it: 1 otherwise.

    `format`: as Pillow names it. In time linear to the size, whatever `data` holds; what is broken
    stays so. Raises TooMany.
    """
    strip = {"JPEG": _jpeg, "PNG": _png, "GIF": _gif}.get(format)
    return (data, 1) if strip is None else strip(data, _Counter(data))


def _jpeg(data: bytes, parts: _Counter) -> tuple[bytes, int]:
    """All its scans are counted."""
    if b"\xff" * _MAX_FILLING in data:
        raise TooMany(f"has more than {_MAX_FILLING} bytes of filling")
    kept, size, at, orientation = [data[:2]], 2, 2, None
    scans, scans_at = 0, len(data)
    while (match := _MARKER.search(data, at)) is not None and match[1][0] != _END:
        begin, marker = match.start(), match[1][0]
        if not scans:  # else it is the picture
            parts.add(begin - at)  # each byte between two segments is looked at by itself
        parts.add()
        length = int.from_bytes(data[match.end() : match.end() + 2], "big")
        if marker == _SCAN:
            scans_at = scans_at if scans else begin
            scans += 1
            if scans > MAX_SCANS:
                raise TooMany(f"has more than {MAX_SCANS} scans")
        if length < 2 and not scans:
            break  # a decoder and this would not see the same from here on
        at = match.end() + (length if marker >= _FRAMES else 0)
        if scans:
            continue
        if marker == _EXIF and orientation is None and data.startswith(b"Exif\0\0", begin + 4):
            orientation = orientation_of(data[begin + 4 : at])
        if marker in _TABLES or (marker == _JFIF and length <= _MAX_JFIF):
            size += at - begin
            if size > _MAX_TABLES:
                raise TooMany(f"has more than {_MAX_TABLES} bytes of tables")
            kept.append(data[begin:at])
    return b"".join([*kept, data[scans_at:]]), orientation or 1


def _png(data: bytes, parts: _Counter) -> tuple[bytes, int]:
    kept, at, orientation, kind = [data[:8]], 8, 1, b""
    while at + 8 <= len(data):
        parts.add()
        before = kind
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if kind == b"IEND" or (before == b"IDAT" and kind != b"IDAT"):
            break  # further frames, perhaps
        if kind in _CHUNKS:
            kept.append(data[at : at + 12 + length])
        elif kind == b"eXIf":
            orientation = orientation_of(data[at + 8 : at + 8 + length])
        at += 12 + length
    return b"".join([*kept, _IEND]), orientation


def _gif(data: bytes, parts: _Counter) -> tuple[bytes, int]:
    flags = data[10] if len(data) > 10 else 0
    at = 13 + (3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0)
    head, control = data[:at], b""
    while (block := data[at : at + 1]) not in (_TRAILER, b""):
        parts.add()
        if block == _FRAME:
            return head + control + data[at:], 1
        begin, at = at, at + 1
        if block == _EXTENSION:
            at += 1
            while at < len(data) and data[at]:
                parts.add()
                at += 1 + data[at]
            at += 1
            if data[begin + 1 : begin + 2] == _CONTROL and at - begin >= 8:
                control = _control(transparent=data[begin + 3] & 1, index=data[begin + 6])
    return head, 1


def _control(*, transparent: int, index: int) -> bytes:
    """Without what is to be done for a next frame, which a decoder would do at once."""
    return bytes((0x21, 0xF9, 4, transparent, 0, 0, index, 0))
