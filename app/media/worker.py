"""The process that decodes pictures (trials/worker.py).

A picture comes in one file in memory and its pixels go into another, which the server has made:
only what is said of them goes through pipes.
"""

from __future__ import annotations

import os
import warnings

import msgspec

from app.media.decode import Refused, decode, measure
from app.media.messages import Look, Seen, Setup
from app.trials import worker

_BYTES_PER_PIXEL = 24
"""Of a picture with transparency or 16 bits: itself, its copies, what is written."""
_MORE_BYTES = 64 * 2**20


def set_up(line: bytes) -> Setup:
    setup = msgspec.json.decode(line, type=Setup)
    warnings.simplefilter("ignore")  # Pillow's, of what clients send
    from PIL import GifImagePlugin, JpegImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401

    return setup


def run(setup: Setup, line: bytes) -> bytes:
    return msgspec.json.encode(_seen(setup, msgspec.json.decode(line, type=Look)))


def _seen(setup: Setup, look: Look) -> Seen:
    data = os.pread(setup.read_fd, look.size, 0)
    try:
        if not look.decode:
            return Seen(None, "", *measure(data, setup.bounds))
        decoded = decode(data, setup.bounds, longest=look.longest)
    except Refused as refused:
        return Seen(refused.code, str(refused))
    except MemoryError:
        return Seen("image_too_large", "needs more memory than a picture may")
    del data
    os.truncate(setup.write_fd, 0)
    written, pixels = 0, memoryview(decoded.pixels)
    while written < len(pixels):
        written += os.pwrite(setup.write_fd, pixels[written:], written)
    return Seen(None, "", decoded.width, decoded.height)


def memory_bytes(setup: Setup) -> int:
    return setup.bounds.max_pixels * _BYTES_PER_PIXEL + _MORE_BYTES


if __name__ == "__main__":
    worker.serve(set_up, run, memory_bytes=memory_bytes)
