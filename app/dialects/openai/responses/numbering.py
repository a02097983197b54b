"""Frames of a stream apart, and with other sequence numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBER = re.compile(rb'"sequence_number":\d+')
"""Its first place in a frame is its own: only the type stands before it."""


def apart(frames: bytes) -> list[bytes]:
    """Each without its end."""
    return frames.split(b"\n\n")[:-1]


def renumbered(frames: Sequence[bytes], first: int) -> tuple[list[bytes], int]:
    """With sequence numbers from `first` on, and the next number."""
    numbers = range(first, first + len(frames))
    changed = [
        _NUMBER.sub(b'"sequence_number":%d' % no, frame, count=1)
        for no, frame in zip(numbers, frames, strict=True)
    ]
    return changed, numbers.stop
