"""Pictures that are none, or cost more than they say; each with the code that it is refused by."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

from PIL import Image

from tests.support.pictures import NOISE, encoded

MANY = "image_too_large"
_SIZE = 10_000_000
"""Of a file; MEDIA_MAX_BYTES is little more."""
_CHUNKS = {
    "tEXt": b"a\0b", "zTXt": b"a\0\0" + zlib.compress(b""), "iTXt": b"a\0\0\0\0\0b", "xxXx": b"",
    "gAMA": b"\0\0\0\1", "acTL": b"\0\0\0\2\0\0\0\0", "pHYs": bytes(9), "IDAT": b"",
    "eXIf": b"MM\0*\0\0\0\x08",
}  # fmt: skip
_BLOCKS = {
    "comments": b"!\xfe\x01a\0", "a comment": b"!\xfe" + b"\x01a" * 90_000 + b"\0", "zeros": b"\0",
    "repetitions": b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0", "plain texts": b"!\x01\0",
    "controls": b"!\xf9\x04\0\0\0\0\0",
}  # fmt: skip
_SEGMENTS = {
    "JFIF": b"\xff\xe0\0\2", "comments": b"\xff\xfe\0\2", "filling": b"\xff",
    "tables": b"\xff\xdb\0\x43\0" + b"\1" * 64,
    "large tables": b"\xff\xdb\xfd\xea" + (b"\0" + b"\1" * 64) * 1_000,
    "large frames": b"\xff\xc0\xff\xff" + bytes(65_533),
    "large codes": b"\xff\xc4\xff\xff" + bytes(65_533),
    "profiles": b"\xff\xe2\0\x10ICC_PROFILE\0\1\1",
    "Photoshop": b"\xff\xed\0\x1cPhotoshop 3.0\x008BIM\4\4\0\0\0\0\0\0",
    "EXIF": b"\xff\xe1\0\x10Exif\0\0MM\0*\0\0\0\x08",
}  # fmt: skip
"""A decoder that reads them one by one takes up to half a minute for so many of each."""


Made = Callable[[], bytes]
"""They are made when they are used: together they are a quarter of a gigabyte."""


def refused() -> dict[str, tuple[Made, str]]:
    def written(format: str) -> Made:
        return lambda: encoded(Image.new("L", (16, 16)), format)

    def flat(width: int, height: int, mode: str = "1") -> Made:
        return lambda: encoded(Image.new(mode, (width, height)))

    def cut(format: str, at: int) -> Made:
        return lambda: encoded(NOISE, format)[:at]

    def parts(format: str, part: bytes) -> Made:
        return lambda: _after_head(format, part * (_SIZE // len(part)))

    no_format, broken = "invalid_image_format", "image_parse_error"
    return {
        "no bytes": (lambda: b"", no_format),
        "SVG": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", no_format),
        "SVG with an outside file": (
            lambda: b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><svg>&b;</svg>',
            no_format,
        ),
        "ImageMagick's own language": (lambda: b"push graphic-context\n", no_format),
        "PostScript": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n", no_format),
        "TIFF": (written("TIFF"), no_format),
        "BMP": (written("BMP"), no_format),
        "PDF": (written("PDF"), no_format),
        "JPEG 2000": (written("JPEG2000"), no_format),
        "ICO": (written("ICO"), no_format),
        "FITS, packed": (lambda: b"SIMPLE  =                    T", no_format),
        "magic alone": (lambda: b"\x89PNG\r\n\x1a\n" + b"0" * 99, broken),
        "no picture after its segments": (
            lambda: b"\xff\xd8" + b"\xff\xe0\0\2" * 99, broken,
        ),
        "segments without a length": (
            lambda: _after_head("JPEG", b"\xff\xe0\0\0" + _SEGMENTS["EXIF"] * 100_000), broken,
        ),
        "cut off": (cut("JPEG", 3000), broken),
        "cut off PNG": (cut("PNG", 3000), broken),
        "cut off WEBP": (cut("WEBP", 1000), broken),
        "cut off GIF": (cut("GIF", 3000), broken),
        "colours outside the palette": (_transparent_beyond_the_palette, broken),
        "a bomb": (flat(13_000, 13_000), MANY),
        "below Pillow's own bound": (flat(9_000, 9_000, "L"), MANY),
        "beyond it": (flat(20_000, 10_000), MANY),
        "a header that lies": (lambda: _png(60_000, 60_000, b""), MANY),
        "a JPEG that lies": (lambda: _jpeg_of(65_500, 65_500), MANY),
        "a WEBP that lies": (lambda: _webp_of(16_384, 16_384), broken),
        "a GIF whose frame is larger than itself": (lambda: _gif(8, 8, 60_000, 60_000), MANY),
        "a GIF that is cleared first": (lambda: _gif(8, 8, 20_000, 20_000, disposal=2), MANY),
        "more pixels than its header says": (lambda: _png(4_000, 4_000, bytes(10)), broken),
        "many scans": (lambda: _scans(500), MANY),
        "many scans, hidden": (lambda: _scans(500, before=b"\xff\x02\xff\xff"), MANY),
        "filling after the scan": (
            lambda: encoded(NOISE, "JPEG")[:-2] + b"\xff" * _SIZE + b"\xff\xd9", MANY,
        ),
        "one pixel": (flat(1, 1), "image_too_small"),
        "a line": (flat(300, 1), "image_too_small"),
        "a strip": (flat(5_000, 30), "invalid_image_size"),
        **{f"PNG, 10 MB of {kind}": (parts("PNG", _chunk(kind.encode(), content)), MANY)
           for kind, content in _CHUNKS.items()},
        **{f"GIF, 10 MB of {name}": (parts("GIF", block), MANY)
           for name, block in _BLOCKS.items()},
        **{f"JPEG, 10 MB of {name}": (parts("JPEG", segment), MANY)
           for name, segment in _SEGMENTS.items()},
    }  # fmt: skip


def harmless() -> dict[str, Made]:
    """What may be decoded, as long as it costs no more than another."""

    def small(format: str, **options: Any) -> bytes:
        return encoded(Image.new("RGB", (64, 64)), format, **options)

    def animated(format: str) -> Made:
        frames = [Image.new("P", (64, 64), no % 256) for no in range(500)]
        return lambda: encoded(frames[0], format, save_all=True, append_images=frames[1:])

    photoshop = (b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\0" * 5_400)[:65_000]
    hidden = _segment(0xC8, _SEGMENTS["EXIF"] * 3_600)
    return {
        "an orientation that is none": lambda: small("JPEG", exif=b"Exif\0\0" + _fields(1)),
        "500 frames": animated("GIF"),
        "an animated PNG of 500": animated("PNG"),
        "a megabyte after its end": lambda: small("PNG") + bytes(2**20),
        "another file inside": lambda: small("JPEG") + small("PDF"),
        "a text of 200 MB": lambda: _png_with(b"zTXt", b"Comment\0\0"),
        "a profile of 200 MB": lambda: _png_with(b"iCCP", b"icc\0\0"),
        "the largest EXIF": lambda: _after_head("JPEG", _exif(5_400)),
        "10 MB of the largest EXIF": lambda: _after_head("JPEG", _exif(5_400) * 150),
        "EXIF of 65,535 fields": lambda: small("WEBP", exif=_fields(65_535)),
        "10 MB of Photoshop": lambda: _after_head("JPEG", _segment(0xED, photoshop) * 150),
        "10 MB of comments": lambda: _after_head("JPEG", _segment(0xFE, b"x" * 1024) * 9_700),
        "EXIF in a segment of no known kind": lambda: _after_head("JPEG", hidden * 100),
        "comments behind an empty control block": (
            lambda: _after_head("GIF", b"!\xf9\0" + b"!\xfe\x01a\0" * 9_000)
        ),
    }


def _chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content)) + kind + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )  # fmt: skip


def _png(width: int, height: int, pixels: bytes, *chunks: bytes) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = _chunk(b"IDAT", zlib.compress(pixels)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + body


def _png_with(kind: bytes, head: bytes) -> bytes:
    """A chunk of 200 kB that unpacks to a thousand times as much."""
    packed = head + zlib.compress(bytes(200_000_000), 9)
    return _png(64, 64, bytes(64 * 193), _chunk(kind, packed))


def _after_head(format: str, parts: bytes) -> bytes:
    """A small picture with these in front of everything else that it holds."""
    small = encoded(Image.new("RGB", (64, 64)), format)
    palette = 3 * 2 ** ((small[10] & 7) + 1) if small[10] & 0x80 else 0
    at = {"JPEG": 2, "PNG": 33, "GIF": 13 + palette}[format]
    return small[:at] + parts + small[at:]


def _fields(count: int) -> bytes:
    fields = [struct.pack(">HHII", no, 3, 1, 65_536) for no in range(count)]
    return b"MM\0*\0\0\0\x08" + struct.pack(">H", count) + b"".join(fields)


def _exif(count: int) -> bytes:
    return _segment(0xE1, b"Exif\0\0" + _fields(count))


def _segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


def _transparent_beyond_the_palette() -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 3, 0, 0, 0))
    chunks = _chunk(b"PLTE", bytes(6)) + _chunk(b"tRNS", bytes(3000))
    pixels = _chunk(b"IDAT", zlib.compress(bytes(8 * 9))) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + chunks + pixels


def _jpeg_of(width: int, height: int) -> bytes:
    """A small one whose header says so."""
    data = bytearray(encoded(Image.new("L", (64, 64)), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def _webp_of(width: int, height: int) -> bytes:
    """A still one of the extended form, whose canvas says so."""
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    extended = b"VP8X" + struct.pack("<I", 10) + b"\x10\0\0\0" + canvas
    inner = encoded(Image.new("RGB", (64, 64)), "WEBP", lossless=True)[12:]
    content = b"WEBP" + extended + inner
    return b"RIFF" + struct.pack("<I", len(content)) + content


def _gif(
    width: int, height: int, frame_width: int, frame_height: int, *, disposal: int = 0
) -> bytes:
    control = bytes((0x21, 0xF9, 4, disposal << 2, 0, 0, 0, 0)) if disposal else b""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0" * 6
    frame = b"," + struct.pack("<HHHHB", 0, 0, frame_width, frame_height, 0)
    return head + control + frame + b"\x02\x02\x4c\x01\0;"


def _scans(count: int, *, before: bytes = b"") -> bytes:
    """A JPEG that says so many times that it goes on, with `before` ahead of each time."""
    data = encoded(Image.new("L", (64, 64)), "JPEG", progressive=True)
    at = data.index(b"\xff\xda")
    end = data.index(b"\xff", at + 14)
    return data[:at] + data[at:end] + (before + data[at:end]) * (count - 1) + data[end:]
