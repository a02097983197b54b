"""Pictures that are none, or cost more than they say; each with the code that it is refused by."""

from __future__ import annotations

import struct
import zlib

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
    "comments": b"!\xfe\x01a\0", "a comment": b"!\xfe" + b"\x01a" * 9_000 + b"\0", "zeros": b"\0",
    "repetitions": b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0", "plain texts": b"!\x01\0",
    "controls": b"!\xf9\x04\0\0\0\0\0",
}  # fmt: skip
_SEGMENTS = {
    "JFIF": b"\xff\xe0\0\2", "comments": b"\xff\xfe\0\2", "filling": b"\xff",
    "tables": b"\xff\xdb\0\x43\0" + b"\1" * 64, "profiles": b"\xff\xe2\0\x10ICC_PROFILE\0\1\1",
    "Photoshop": b"\xff\xed\0\x1cPhotoshop 3.0\x008BIM\4\4\0\0\0\0\0\0",
    "EXIF": b"\xff\xe1\0\x10Exif\0\0MM\0*\0\0\0\x08",
}  # fmt: skip
"""A decoder that reads them one by one takes up to half a minute for so many of each."""


def refused() -> dict[str, tuple[bytes, str]]:
    grey = Image.new("L", (9, 9))
    return {
        "no bytes": (b"", "invalid_image_format"),
        "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "invalid_image_format"),
        "SVG with an outside file": (
            b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><svg>&b;</svg>',
            "invalid_image_format",
        ),
        "ImageMagick's own language": (b"push graphic-context\n", "invalid_image_format"),
        "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "invalid_image_format"),
        "TIFF": (encoded(grey, "TIFF"), "invalid_image_format"),
        "BMP": (encoded(grey, "BMP"), "invalid_image_format"),
        "PDF": (encoded(grey, "PDF"), "invalid_image_format"),
        "JPEG 2000": (encoded(grey, "JPEG2000"), "invalid_image_format"),
        "ICO": (encoded(Image.new("L", (16, 16)), "ICO"), "invalid_image_format"),
        "FITS, packed": (b"SIMPLE  =                    T", "invalid_image_format"),
        "magic alone": (b"\x89PNG\r\n\x1a\n" + b"0" * 99, "image_parse_error"),
        "no picture after its segments": (
            b"\xff\xd8" + b"\xff\xe0\x00\x02" * 99,
            "image_parse_error",
        ),
        "cut off": (encoded(NOISE, "JPEG")[:3000], "image_parse_error"),
        "cut off PNG": (encoded(NOISE)[:3000], "image_parse_error"),
        "cut off WEBP": (encoded(NOISE, "WEBP")[:1000], "image_parse_error"),
        "cut off GIF": (encoded(NOISE, "GIF")[:3000], "image_parse_error"),
        "a bomb": (_flat(13_000, 13_000), "image_too_large"),
        "below Pillow's own bound": (_flat(9_000, 9_000, "L"), "image_too_large"),
        "beyond it": (_flat(20_000, 10_000), "image_too_large"),
        "a header that lies": (_png(60_000, 60_000, b""), "image_too_large"),
        "a JPEG that lies": (_jpeg_of(65_500, 65_500), "image_too_large"),
        "a WEBP that lies": (_webp_of(16_384, 16_384), "image_parse_error"),
        "a GIF whose frame is larger than itself": (_gif(8, 8, 60_000, 60_000), "image_too_large"),
        "more pixels than its header says": (_png(4_000, 4_000, b"\0" * 10), "image_parse_error"),
        "many scans": (_scans(500), "image_too_large"),
        **{
            f"PNG, 10 MB of {kind}": (_with_parts("PNG", _chunk(kind.encode(), content)), MANY)
            for kind, content in _CHUNKS.items()
        },
        **{
            f"GIF, 10 MB of {name}": (_with_parts("GIF", block), MANY)
            for name, block in _BLOCKS.items()
        },
        **{
            f"JPEG, 10 MB of {name}": (_with_parts("JPEG", segment), MANY)
            for name, segment in _SEGMENTS.items()
        },
        "one pixel": (_flat(1, 1), "image_too_small"),
        "a line": (_flat(300, 1), "image_too_small"),
        "a strip": (_flat(5_000, 30), "invalid_image_size"),
    }


def harmless() -> dict[str, bytes]:
    """What may be decoded, as long as it costs no more than another."""
    exif = Image.Exif()
    exif[0x0112] = 77  # no orientation
    small = Image.new("RGB", (64, 64))
    frames = [Image.new("P", (64, 64), no % 256) for no in range(500)]
    return {
        "an orientation that is none": encoded(small, "JPEG", exif=exif),
        "500 frames": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "an animated PNG of 500": encoded(
            frames[0], "PNG", save_all=True, append_images=frames[1:]
        ),
        "a megabyte after its end": encoded(small) + b"\0" * 2**20,
        "another file inside": encoded(small, "JPEG") + encoded(small, "PDF"),
        "a text of 200 MB": _png_with(b"zTXt", b"Comment\0\0"),
        "a profile of 200 MB": _png_with(b"iCCP", b"icc\0\0"),
        "the largest EXIF": _after_head("JPEG", _exif(5_400)),
        "10 MB of the largest EXIF": _after_head("JPEG", _exif(5_400) * 150),
        "EXIF of 65,535 fields": encoded(small, "WEBP", exif=_fields(65_535)),
        "10 MB of Photoshop": _after_head("JPEG", _photoshop() * 150),
        "10 MB of comments": _after_head("JPEG", (b"\xff\xfe\x04\x02" + b"x" * 1024) * 9_700),
    }


def _flat(width: int, height: int, mode: str = "1") -> bytes:
    return encoded(Image.new(mode, (width, height)))


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


def _with_parts(format: str, part: bytes) -> bytes:
    return _after_head(format, part * (_SIZE // len(part)))


def _fields(count: int) -> bytes:
    fields = [struct.pack(">HHII", no, 3, 1, 65_536) for no in range(count)]
    return b"MM\0*\0\0\0\x08" + struct.pack(">H", count) + b"".join(fields)


def _exif(count: int) -> bytes:
    fields = b"Exif\0\0" + _fields(count)
    return b"\xff\xe1" + struct.pack(">H", len(fields) + 2) + fields


def _photoshop() -> bytes:
    content = (b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\0" * 5_400)[:65_000]
    return b"\xff\xed" + struct.pack(">H", len(content) + 2) + content


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


def _gif(width: int, height: int, frame_width: int, frame_height: int) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0" * 6
    frame = b"," + struct.pack("<HHHHB", 0, 0, frame_width, frame_height, 0)
    return head + frame + b"\x02\x02\x4c\x01\0;"


def _scans(count: int) -> bytes:
    """A JPEG that says so many times that it goes on."""
    data = encoded(Image.new("L", (64, 64)), "JPEG", progressive=True)
    at = data.index(b"\xff\xda")
    end = data.index(b"\xff", at + 14)
    return data[:at] + data[at:end] * count + data[end:]
