"""Which way up a picture stands, by its EXIF: the one field of it that is read."""

from __future__ import annotations

import struct

from PIL.Image import Image, Transpose

_PREFIX = b"Exif\0\0"
_ORIENTATION, _SHORT = 0x0112, 3
_MOST_FIELDS = 5_000
_WAYS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


def orientation_of(exif: bytes) -> int:
    """1 to 8, as EXIF counts; 1 where it says nothing, or nothing that makes sense."""
    tiff = exif.removeprefix(_PREFIX)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, at)
        for no in range(min(count, _MOST_FIELDS)):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, at + 2 + 12 * no)
            if (tag, kind) == (_ORIENTATION, _SHORT):
                return value if value in _WAYS else 1
    except struct.error:  # it ends before
        pass
    return 1


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """5 to 8 are turned by a right angle."""
    return (size[1], size[0]) if orientation >= 5 else size


def upright(image: Image, orientation: int) -> Image:
    way = _WAYS.get(orientation)
    return image if way is None else image.transpose(way)
