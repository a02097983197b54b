"""A picture's file without what its pixels do not need, before any decoder reads it.

Pillow reads comments, profiles, thumbnails and the places of further pictures in Python, some in
quadratic time: ten megabytes of them cost it up to half a minute. None of them changes what the
model sees. Kept is, of

    JPEG   frame, tables, JFIF, Adobe and the first EXIF, and all from the first scan on
    PNG    header, palette, transparency, EXIF, pixels
    GIF    header, palette, the first frame with its control block, and all from there on
    WEBP   all: it is read in C
"""

from __future__ import annotations

import re

PARTS = 1_000
BYTES_PER_PART = 1_024
"""A file may have so many segments, chunks or blocks, and one more for each of these bytes."""
MAX_SCANS = 64
"""Of a JPEG. Each is a pass over the whole picture, and may be a few bytes; cameras write ten."""
MAX_EXIF_BYTES = 2**16
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
"""The next one that has a segment, or is the end; what a scan holds has others."""
_SCAN, _END, _EXIF = 0xDA, 0xD9, 0xE1
_NEEDED = frozenset((*range(0xC0, 0xD0), 0xDB, 0xDC, 0xDD, 0xE0, 0xEE))
_CHUNKS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))
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


def stripped(data: bytes, format: str) -> bytes:
    """`format`: as Pillow names it. In time linear to the size, whatever `data` holds; what is
    broken stays so. Raises TooMany."""
    strip = {"JPEG": _jpeg, "PNG": _png, "GIF": _gif}.get(format)
    return data if strip is None else strip(data, _Counter(data))


def _jpeg(data: bytes, parts: _Counter) -> bytes:
    """All its scans are counted."""
    kept, at, scans, scans_at, has_exif = [data[:2]], 2, 0, len(data), False
    while (match := _MARKER.search(data, at)) is not None and match[1][0] != _END:
        begin, marker = match.start(), match[1][0]
        if not scans:  # else it is the picture
            parts.add(begin - at)  # each byte between two segments is looked at by itself
        parts.add()
        at = match.end() + int.from_bytes(data[match.end() : match.end() + 2], "big")
        if marker == _SCAN:
            scans_at = scans_at if scans else begin
            scans += 1
            if scans > MAX_SCANS:
                raise TooMany(f"has more than {MAX_SCANS} scans")
        elif not scans:
            is_exif = marker == _EXIF and data.startswith(b"Exif\0\0", begin + 4)
            if marker in _NEEDED or (is_exif and not has_exif):
                kept.append(data[begin:at])
            has_exif |= is_exif
    return b"".join([*kept, data[scans_at:]])


def _png(data: bytes, parts: _Counter) -> bytes:
    kept, at, has_exif, kind = [data[:8]], 8, False, b""
    while at + 8 <= len(data) and kind != b"IEND":
        parts.add()
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        is_exif = kind == b"eXIf" and length <= MAX_EXIF_BYTES and not has_exif
        if kind in _CHUNKS or is_exif:
            kept.append(data[at : at + 12 + length])
        has_exif |= is_exif or kind == b"IDAT"  # after the pixels it would come too late
        at += 12 + length
    return b"".join(kept)


def _gif(data: bytes, parts: _Counter) -> bytes:
    flags = data[10] if len(data) > 10 else 0
    at = 13 + (3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0)
    head, control = data[:at], b""
    while (block := data[at : at + 1]) not in (_TRAILER, b""):
        parts.add()
        if block == _FRAME:
            return head + control + data[at:]
        begin, at = at, at + 1
        if block == _EXTENSION:
            at += 1
            while at < len(data) and data[at]:
                parts.add()
                at += 1 + data[at]
            at += 1
            if data[begin + 1 : begin + 2] == _CONTROL:
                control = data[begin:at]
    return head
