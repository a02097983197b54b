"""One picture: its size from its header, its pixels; each step is cheaper than the next.

    bytes ─ magic ─ stripped ─ header: sides, ratio, pixels ─ decode ─ upright ─ 8 bits ─ on white

Pure and bounded; runs in a child of worker.py, since the decoders are C and the bytes a client's.
"""

from __future__ import annotations

from io import BytesIO

import PIL.Image
from PIL.Image import Image

from app.media.orientation import orientation_of, upright, upright_size
from app.media.picture import Bounds, Decoded
from app.media.stripped import TooMany, stripped

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_MAGIC = ((b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"GIF8", "GIF"))


class Refused(Exception):
    """`str()` continues "Invalid value for '...': the picture "."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def measure(data: bytes, bounds: Bounds) -> tuple[int, int]:
    """Width and height as it will be seen, from the header. Raises Refused."""
    image, orientation = _opened(data, bounds)
    with image:
        return upright_size(image.size, orientation)


def decode(data: bytes, bounds: Bounds, *, longest: int | None = None) -> Decoded:
    """`longest`: scale it down to a longest side of so many pixels. Raises Refused, MemoryError."""
    image, orientation = _opened(data, bounds)
    with image:
        if longest is not None:
            image.draft("RGB", (longest, longest))
        try:
            image.load()
            rgb = _as_rgb(upright(image, orientation))
        except MemoryError:
            raise
        except Exception as error:  # what the decoders happen to raise at broken files
            raise _broken() from error
    if longest is not None:
        rgb.thumbnail((longest, longest))
    return Decoded(*rgb.size, rgb.tobytes())


def _opened(data: bytes, bounds: Bounds) -> tuple[Image, int]:
    """With its header read, and its orientation."""
    format = _format_of(data)
    if format is None:
        raise Refused("invalid_image_format", f"must be one of {', '.join(FORMATS)}")
    try:
        data, orientation = stripped(data, format)
    except TooMany as many:
        raise Refused("image_too_large", str(many)) from many
    PIL.Image.MAX_IMAGE_PIXELS = None  # the bounds are those here
    try:
        image = PIL.Image.open(BytesIO(data), formats=[format])
    except MemoryError:
        raise
    except Exception as error:  # what the decoders happen to raise at broken headers
        raise _broken() from error
    _check(*image.size, bounds)
    if format == "WEBP":
        orientation = orientation_of(image.info.get("exif", b""))
    return image, orientation


def _format_of(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return next((name for magic, name in _MAGIC if data.startswith(magic)), None)


def _check(width: int, height: int, bounds: Bounds) -> None:
    if width * height > bounds.max_pixels:
        raise Refused("image_too_large", f"is {width} x {height}: it {_too_many(bounds)}")
    shorter, longer = sorted((width, height))
    if shorter < bounds.min_side:
        raise Refused(
            "image_too_small",
            f"is {width} x {height}: a side must be at least {bounds.min_side} pixels",
        )
    if longer > shorter * bounds.max_ratio:
        raise Refused(
            "invalid_image_size",
            f"is {width} x {height}: one side may be at most {bounds.max_ratio:g} times the other",
        )


def _too_many(bounds: Bounds) -> str:
    return f"may have at most {bounds.max_pixels} pixels (MEDIA_MAX_PIXELS)"


def _broken() -> Refused:
    return Refused("image_parse_error", "is broken: it cannot be decoded")


def _as_rgb(image: Image) -> Image:
    if image.mode.startswith("I;16"):  # else all above 255 would be white
        image = image.convert("I").point([value >> 8 for value in range(2**16)], "L")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    opaque = PIL.Image.new("RGB", image.size, "white")
    opaque.paste(image, mask=image.getchannel("A"))
    return opaque
