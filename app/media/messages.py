"""What the server and a process that decodes pictures say to each other."""

from __future__ import annotations

import msgspec

from app.media.picture import Bounds


class Setup(msgspec.Struct):
    bounds: Bounds
    read_fd: int
    write_fd: int


class Look(msgspec.Struct):
    """What to do with the picture in the file."""

    size: int
    """Its bytes."""
    decode: bool = False
    """Not only measure it."""
    longest: int | None = None


class Seen(msgspec.Struct, omit_defaults=True):
    """`code` and `reason`, or the rest."""

    code: str | None = None
    reason: str = ""
    width: int = 0
    height: int = 0
