"""One picture: what it shows is what the model gets, and what is no picture costs nothing."""

from __future__ import annotations

import time

import pytest
from PIL import Image

from app.media.decode import Refused, decode, measure
from tests.support.pictures import BLACK, BOUNDS, RED, WHITE, encoded


def pixel(data: bytes, x: int = 0, y: int = 0) -> tuple[int, ...]:
    decoded = decode(data, BOUNDS)
    at = 3 * (y * decoded.width + x)
    return tuple(decoded.pixels[at : at + 3])


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF"])
def test_each_format_shows_its_colours(format: str) -> None:
    data = encoded(Image.new("RGB", (40, 30), RED), format, lossless=True)
    decoded = decode(data, BOUNDS)
    assert (decoded.width, decoded.height) == measure(data, BOUNDS) == (40, 30)
    assert len(decoded.pixels) == 40 * 30 * 3
    assert all(abs(a - b) < 3 for a, b in zip(pixel(data), RED, strict=True))


@pytest.mark.parametrize(
    ("image", "seen"),
    [
        (Image.new("1", (8, 8), 1), WHITE),
        (Image.new("L", (8, 8), 128), (128, 128, 128)),
        (Image.new("RGBA", (8, 8), (0, 0, 0, 0)), WHITE),
        (Image.new("RGBA", (8, 8), (0, 0, 0, 128)), (127, 127, 127)),
        (Image.new("LA", (8, 8), (0, 0)), WHITE),
        (Image.new("I;16", (8, 8), 0x80FF), (128, 128, 128)),
    ],
)
def test_each_mode_is_seen_as_a_person_sees_it(image: Image.Image, seen: tuple[int, ...]) -> None:
    assert pixel(encoded(image)) == seen


def test_a_palette_with_a_transparent_colour_is_on_white() -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([*BLACK, *RED])
    image.putpixel((7, 7), 1)
    data = encoded(image, "PNG", transparency=0)
    assert (pixel(data), pixel(data, 7, 7)) == (WHITE, RED)


def test_inks_are_colours() -> None:
    data = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")
    assert pixel(data)[0] > 200
    assert pixel(data)[1] < 50


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(("orientation", "size"), [(1, (40, 30)), (3, (40, 30)), (6, (30, 40))])
def test_a_picture_from_a_phone_stands_upright(
    format: str, orientation: int, size: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.new("RGB", (40, 30), WHITE)
    image.paste(BLACK, (0, 0, 20, 15))  # its first quarter
    data = encoded(image, format, exif=exif)
    decoded = decode(data, BOUNDS)
    assert (decoded.width, decoded.height) == measure(data, BOUNDS) == size
    corners = {1: (0, 0), 3: (size[0] - 1, size[1] - 1), 6: (size[0] - 1, 0)}
    assert sum(pixel(data, *corners[orientation])) < 60


def test_of_an_animation_the_first_frame_is_seen() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLACK, WHITE)]
    for format in ("GIF", "WEBP", "PNG"):
        options = {"lossless": True} if format == "WEBP" else {}
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
        assert pixel(data) == RED


def test_a_smaller_picture_is_made_where_little_detail_is_asked_for() -> None:
    for format in ("PNG", "JPEG"):
        data = encoded(Image.new("RGB", (2000, 1500), RED), format)
        decoded = decode(data, BOUNDS, longest=512)
        assert (decoded.width, decoded.height) == (512, 384)
        small = encoded(Image.new("RGB", (100, 50), RED), format)
        assert decode(small, BOUNDS, longest=512).width == 100


def test_pictures_of_other_sizes_have_other_identities() -> None:
    wide, tall = (decode(encoded(Image.new("RGB", size)), BOUNDS) for size in ((40, 20), (20, 40)))
    assert wide.pixels == tall.pixels
    assert wide.identity() != tall.identity()
    again = decode(encoded(Image.new("L", (40, 20)), "GIF"), BOUNDS)
    assert again.identity() == wide.identity()


def test_a_camera_picture_of_megabytes_is_measured_in_no_time() -> None:
    noise = Image.merge("RGB", [Image.effect_noise((3000, 2000), 90)] * 3)
    data = encoded(noise, "JPEG", quality=97)
    assert len(data) > 4_000_000
    began = time.process_time()
    assert measure(data, BOUNDS) == (3000, 2000)
    assert time.process_time() - began < 0.1


def test_what_stands_after_a_jpeg_or_in_its_segments_is_not_counted() -> None:
    exif = Image.Exif()
    exif[0x010E] = "\xff\xda" * 100
    data = encoded(Image.new("RGB", (8, 8), RED), "JPEG", exif=exif, quality=95)
    assert decode(data + b"\xff\xda\x00\x02" * 1000, BOUNDS).width == 8


def test_a_picture_of_the_largest_size_is_taken() -> None:
    most, more = (encoded(Image.new("1", (4096 + no, 4096))) for no in range(2))
    assert decode(most, BOUNDS).width == 4096
    with pytest.raises(Refused, match="16777216"):
        measure(more, BOUNDS)
