"""Pictures, and what bounds one."""

from __future__ import annotations

import hashlib

import msgspec


class Bounds(msgspec.Struct, frozen=True):
    max_pixels: int
    min_side: int
    max_ratio: float
    """Of the longer side to the shorter one."""


class Decoded(msgspec.Struct, frozen=True):
    """A picture as the model's processor takes it: rows of RGB, 8 bits each, upright, opaque."""

    width: int
    height: int
    pixels: bytes

    def identity(self) -> bytes:
        """SHA-256 of size and pixels: pictures that the model cannot tell apart have the same. Half
        a second for a gigabyte: not for the loop."""
        digest = hashlib.sha256(b"%dx%d " % (self.width, self.height))
        digest.update(self.pixels)
        return digest.digest()


class CannotFetch(Exception):
    """`str()` continues "the picture "; it tells nothing of the network to the client."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
