"""Reading a request's body, within its bounds of size and time."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import Message, Receive

from app.errors import BodyTimeout, BodyTooLarge, ClientGone, UnsupportedEncoding
from app.settings.catalogue import Settings

_BODY_GRACE_S = 5.0


async def read_body(headers: Headers, receive: Receive, settings: Settings) -> bytes:
    """The whole body, within the bounds. Raises BodyTooLarge, BodyTimeout, ClientGone.

    Every byte that arrives buys time, at MIN_BODY_RATE, up to BODY_TIMEOUT.
    """
    encoding = headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedEncoding(
            "Compressed bodies are not supported; send content-encoding: identity."
        )
    max_bytes, timeout_s, rate = (
        settings.max_body_bytes, settings.body_timeout_s, settings.min_body_rate,
    )  # fmt: skip
    too_large = BodyTooLarge(f"The request's body is over {max_bytes} bytes (MAX_BODY_BYTES).")
    declared = headers.get("content-length")
    if declared is not None and declared.isdecimal() and int(declared) > max_bytes:
        raise too_large
    body = bytearray()
    began = asyncio.get_running_loop().time()
    patience_s = min(timeout_s, _BODY_GRACE_S) if rate else timeout_s
    try:
        async with asyncio.timeout_at(began + patience_s) as deadline:
            while True:
                message: Message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone("The client left before its request was complete.")
                body += message.get("body", b"")
                if len(body) > max_bytes:
                    raise too_large
                if not message.get("more_body", False):
                    return bytes(body)
                if rate:
                    patience_s = min(timeout_s, _BODY_GRACE_S + len(body) / rate)
                    deadline.reschedule(began + patience_s)
    except TimeoutError:
        if patience_s < timeout_s:
            said = f"arrives with less than {rate} bytes a second (MIN_BODY_RATE)"
        else:
            said = f"did not arrive within {timeout_s:g} s (BODY_TIMEOUT)"
        raise BodyTimeout(f"The request's body {said}.") from None
