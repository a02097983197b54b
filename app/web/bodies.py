"""Reads a request's body, within bounds on its size and time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import Message, Receive

from app.errors import BodyTimeout, BodyTooLarge, ClientGone, UnsupportedEncoding
from app.settings.catalogue import Settings

_BODY_GRACE_S = 5.0
"""Time for any body, whatever its rate."""
_LENGTH_DIGITS = 19


async def read_body(
    headers: Headers,
    receive: Receive,
    settings: Settings,
    max_bytes: int,
    *,
    arrived: Callable[[int], None] | None = None,
) -> bytes:
    """Read the whole body. `arrived` gets the size of each piece.

    Raises BodyTooLarge, BodyTimeout, ClientGone, UnsupportedEncoding.
    Every byte that arrives extends the deadline, at MIN_BODY_RATE, up to BODY_TIMEOUT.
    """
    encoding = headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedEncoding(
            "Compressed bodies are not supported; send content-encoding: identity."
        )
    timeout_s = settings.body_timeout_s
    min_rate = settings.min_body_rate
    too_large = BodyTooLarge(f"The request's body is over {max_bytes} bytes (MAX_BODY_BYTES).")
    # Compared as text: Python refuses to read a number of more than 4300 digits, zeros included.
    declared = headers.get("content-length", "").lstrip("0")
    if declared.isdecimal() and (len(declared) > _LENGTH_DIGITS or int(declared) > max_bytes):
        raise too_large
    body = bytearray()
    began = asyncio.get_running_loop().time()
    limit_s = min(timeout_s, _BODY_GRACE_S) if min_rate else timeout_s
    try:
        async with asyncio.timeout_at(began + limit_s) as deadline:
            while True:
                message: Message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone("The client left before its request was complete.")
                body += (piece := message.get("body", b""))
                if arrived is not None:
                    arrived(len(piece))
                if len(body) > max_bytes:
                    raise too_large
                if not message.get("more_body", False):
                    return bytes(body)
                if min_rate:
                    limit_s = min(timeout_s, _BODY_GRACE_S + len(body) / min_rate)
                    deadline.reschedule(began + limit_s)
    except TimeoutError:
        if limit_s < timeout_s:
            problem = f"arrives with less than {min_rate} bytes a second (MIN_BODY_RATE)"
        else:
            problem = f"did not arrive within {timeout_s:g} s (BODY_TIMEOUT)"
        raise BodyTimeout(f"The request's body {problem}.") from None
