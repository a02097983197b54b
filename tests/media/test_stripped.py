"""What a picture shows is the same without what its pixels do not need."""

from __future__ import annotations

from contextlib import suppress
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from app.media.stripped import PARTS, TooMany, stripped
from tests.support.pictures import NOISE, encoded

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
COLOURS = Image.merge("RGB", [NOISE, NOISE.rotate(90), NOISE.rotate(180)])
GLASS = Image.merge("RGBA", [*COLOURS.split(), NOISE.rotate(270)])
MAGIC = {"JPEG": b"\xff\xd8", "PNG": b"\x89PNG\r\n\x1a\n", "GIF": b"GIF89a"}


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    return exif


def _texts() -> PngImagePlugin.PngInfo:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Comment", "x" * 5000, zip=True)
    texts.add_itxt("Title", "ü")
    return texts


PICTURES: list[tuple[str, Image.Image, dict[str, Any]]] = [
    ("JPEG", COLOURS, {"icc_profile": PROFILE, "exif": _exif(), "comment": "x", "xmp": b"<x/>"}),
    ("JPEG", COLOURS, {"progressive": True, "quality": 95, "subsampling": 0}),
    ("JPEG", COLOURS, {"restart_marker_blocks": 1}),
    ("JPEG", NOISE, {"optimize": True}),
    ("JPEG", COLOURS.convert("CMYK"), {}),
    ("PNG", COLOURS, {"icc_profile": PROFILE, "exif": _exif(), "pnginfo": _texts(), "dpi": (9, 9)}),
    ("PNG", GLASS, {}),
    ("PNG", GLASS.convert("LA"), {}),
    ("PNG", COLOURS.quantize(16), {"transparency": 3}),
    ("PNG", NOISE.convert("1"), {}),
    ("PNG", NOISE.convert("I;16"), {"transparency": 7}),
    ("PNG", COLOURS, {"save_all": True, "append_images": [GLASS.convert("RGB")] * 3}),
    ("GIF", COLOURS.quantize(32), {"comment": b"x" * 600, "transparency": 3}),
    ("GIF", NOISE, {"save_all": True, "append_images": [NOISE.rotate(90)] * 3, "loop": 0}),
    ("GIF", NOISE.convert("1"), {"interlace": 1}),
    ("WEBP", GLASS, {"exif": _exif(), "icc_profile": PROFILE}),
]


@pytest.mark.parametrize(("format", "image", "options"), PICTURES)
def test_the_picture_is_the_same_and_so_is_how_it_lies(
    format: str, image: Image.Image, options: dict[str, Any]
) -> None:
    data = encoded(image, format, **options)
    bare, orientation = stripped(data, format)
    before, after = (Image.open(BytesIO(each)) for each in (data, bare))
    assert (after.size, after.mode) == (before.size, before.mode)
    assert after.convert("RGBA").tobytes() == before.convert("RGBA").tobytes()
    assert after.info.get("transparency") == before.info.get("transparency")
    if format != "WEBP":
        assert orientation == before.getexif().get(0x0112, 1)


def test_what_the_pixels_do_not_need_is_gone() -> None:
    for format, image, options in PICTURES[:1] + PICTURES[5:6] + PICTURES[12:13]:
        data = encoded(image, format, **options)
        bare, _ = stripped(data, format)
        left = Image.open(BytesIO(bare)).info.keys()
        assert not {"icc_profile", "comment", "Comment", "xmp", "Title", "exif"} & left
        assert len(bare) < len(data)


def test_a_file_may_have_many_parts_if_it_is_large_but_no_more() -> None:
    segment = b"\xff\xfe\0\2"
    picture = encoded(COLOURS, "JPEG")
    few, many = (picture[:2] + segment * count + picture[2:] for count in (PARTS - 100, PARTS * 2))
    assert stripped(few, "JPEG") == stripped(picture, "JPEG")
    with pytest.raises(TooMany, match=r"has more than 20\d{3} parts"):
        stripped(many, "JPEG")


def test_a_long_animation_is_its_first_picture() -> None:
    frames = [Image.new("RGB", (32, 32), (no % 256, no // 256, 0)) for no in range(3000)]
    for format in ("PNG", "GIF"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
        bare, _ = stripped(data, format)
        assert Image.open(BytesIO(bare)).convert("RGB").getpixel((9, 9)) == (0, 0, 0)


def test_a_gif_may_have_a_large_description() -> None:
    """As Photoshop writes it: bytes of text are read as lengths."""
    data = encoded(NOISE, "GIF")
    palette = 13 + 3 * 256
    xmp = b"!\xff\x0bXMP DataXMP" + b"<rdf:li>" * 20_000 + bytes((1, *range(255, -1, -1), 0))
    bare, _ = stripped(data[:palette] + xmp + data[palette:], "GIF")
    assert bare == stripped(data, "GIF")[0]


@given(st.sampled_from(sorted(MAGIC)), st.binary(max_size=300))
def test_whatever_follows_its_magic_nothing_is_added(format: str, content: bytes) -> None:
    data = MAGIC[format] + content
    with suppress(TooMany):
        assert len(stripped(data, format)[0]) <= len(data) + 12  # the end of a PNG


@given(st.sampled_from(PICTURES), st.integers(0, 5000), st.binary(max_size=20))
def test_a_picture_that_was_tampered_with_is_read_or_is_broken(
    picture: tuple[str, Image.Image, dict[str, Any]], at: int, content: bytes
) -> None:
    format, image, options = picture
    data = encoded(image.resize((20, 20)), format, **options)
    with suppress(TooMany):
        stripped(data[:at] + content + data[at + len(content) :], format)
