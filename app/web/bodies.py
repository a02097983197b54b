"""Reads a request's body, within bounds on its size and time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from starlette.datastructures import Headers
from starlette.types import Message, Receive

from app import awake
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
    timeout_s = settings.body_timeout_s
    min_rate = settings.min_body_rate
    too_large = BodyTooLarge(f"The request's body is over {max_bytes} bytes (MAX_BODY_BYTES).")
    if declares_over(headers, max_bytes):
        raise too_large
    body = bytearray()
    began = awake.now()
    limit_s = min(timeout_s, _BODY_GRACE_S) if min_rate else timeout_s
    try:
        async with awake.timeout(limit_s) as bound:
            while True:
                message: Message = await receive()
                if message["type"] == "http.disconnect":
                    raise _gone()
                body += (piece := message.get("body", b""))
                if arrived is not None:
                    arrived(len(piece))
                if len(body) > max_bytes:
                    raise too_large
                if not message.get("more_body", False):
                    return bytes(body)
                if min_rate:
                    limit_s = min(timeout_s, _BODY_GRACE_S + len(body) / min_rate)
                    bound.end_in(began + limit_s - awake.now())
    except TimeoutError:
        if limit_s < timeout_s:
            problem = f"arrives with less than {min_rate} bytes a second (MIN_BODY_RATE)"
        else:
            problem = f"did not arrive within {timeout_s:g} s (BODY_TIMEOUT)"
        raise BodyTimeout(f"The request's body {problem}.") from None


async def body_pieces(
    receive: Receive, settings: Settings, *, timeout_s: float
) -> AsyncGenerator[bytes, None]:
    """The body as it comes, for what is not kept in memory.

    Raises BodyTimeout, ClientGone. Only the time that the client is waited for
    counts against MIN_BODY_RATE, as the server's own disk may be slow; all of it counts against
    `timeout_s`.
    """
    ends = awake.now() + timeout_s
    min_rate = settings.min_body_rate
    arrived, waited_s = 0, 0.0
    while True:
        began = awake.now()
        limit_s = ends - began
        slow_s = _BODY_GRACE_S + arrived / min_rate - waited_s if min_rate else limit_s
        try:
            async with awake.timeout(min(limit_s, slow_s)):
                message: Message = await receive()
        except TimeoutError:
            if slow_s < limit_s:
                problem = f"arrives with less than {min_rate} bytes a second (MIN_BODY_RATE)"
            else:
                problem = f"did not arrive within {timeout_s:g} s (FILE_UPLOAD_TIMEOUT)"
            raise BodyTimeout(f"The request's body {problem}.") from None
        if message["type"] == "http.disconnect":
            raise _gone()
        waited_s += awake.now() - began
        piece: bytes = message.get("body", b"")
        arrived += len(piece)
        yield piece
        if not message.get("more_body", False):
            return


def declares_over(headers: Headers, max_bytes: int) -> bool:
    """The body's length, if the client says it, is over this. Raises UnsupportedEncoding."""
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedEncoding(
            "Compressed bodies are not supported; send content-encoding: identity."
        )
    # Compared as text: Python refuses to read a number of more than 4300 digits, zeros included.
    declared = headers.get("content-length", "").lstrip("0")
    return declared.isdecimal() and (len(declared) > _LENGTH_DIGITS or int(declared) > max_bytes)


def _gone() -> ClientGone:
    return ClientGone("The client left before its request was complete.")
