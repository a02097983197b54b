"""Pictures for tests, made in code."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from app.media.picture import Bounds

BOUNDS = Bounds(max_pixels=16_777_216, min_side=4, max_ratio=50)
WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)
NOISE = Image.effect_noise((300, 300), 50)


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()
