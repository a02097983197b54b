"""A picture stands upright whatever else its EXIF holds, and its size is known before."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from app.media.decode import decode, measure
from app.media.orientation import orientation_of
from tests.support.pictures import BOUNDS, NOISE, encoded

PICTURE = NOISE.convert("RGB").resize((24, 12))


def exif(*fields: tuple[int, int, int, int], order: str = ">") -> bytes:
    """Fields of tag, type, count and value."""
    head = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(order + "IH", 8, len(fields))
    return b"Exif\0\0" + head + b"".join(struct.pack(order + "HHIHxx", *each) for each in fields)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_each_is_what_pillow_makes_of_it(orientation: int, format: str) -> None:
    tags = Image.Exif()
    tags[0x0112] = orientation
    data = encoded(PICTURE, format, exif=tags, lossless=True)
    turned = PICTURE.copy()
    turned.getexif()[0x0112] = orientation
    ImageOps.exif_transpose(turned, in_place=True)
    decoded = decode(data, BOUNDS)
    assert (decoded.width, decoded.height) == measure(data, BOUNDS) == turned.size
    assert decoded.pixels == turned.tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
def test_fields_that_no_library_understands_change_nothing(order: str) -> None:
    for tag in (0x0100, 0x010F, 0x011A, 0x0128, 0x0213, 0x02BC):
        for kind in (0, 2, 5, 7, 10, 999):
            content = exif((tag, kind, 1, 1), (0x0112, 3, 1, 6), order=order)
            assert orientation_of(content) == 6
            data = encoded(PICTURE, "JPEG", exif=content)
            decoded = decode(data, BOUNDS)
            assert (decoded.width, decoded.height) == measure(data, BOUNDS) == (12, 24)


@pytest.mark.parametrize(
    "content",
    [b"", b"Exif\0\0", b"Exif\0\0MM\0*", exif((0x0112, 3, 1, 9)), exif((0x0112, 3, 1, 0)),
     exif((0x0112, 4, 1, 6)), exif()[:-1], exif((0x0112, 3, 1, 6))[:-6], b"Exif\0\0XX" + bytes(99)],
)  # fmt: skip
def test_what_makes_no_sense_is_upright(content: bytes) -> None:
    assert orientation_of(content) == 1


@given(st.binary(max_size=200))
def test_any_bytes_are_an_orientation(content: bytes) -> None:
    for prefix in (b"Exif\0\0", b"MM\0*\0\0\0\x08", b"II*\0\x08\0\0\0", b""):
        assert 1 <= orientation_of(prefix + content) <= 8
