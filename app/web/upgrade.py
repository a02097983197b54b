"""Requests that offer an upgrade: the offer is ignored, as HTTP allows, and their body is read.

httptools takes what follows a head with `Connection: Upgrade` for another protocol and stops there.
Some clients offer one with each request (Java's HttpClient: h2c). So another parser, which is fed a
head that announces the same body, reads on.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_FRAMING = (b"content-length", b"transfer-encoding")
"""The fields that announce a body."""
_SILENT_IN_THE_HEAD = (
    "on_message_begin", "on_url", "on_header", "on_headers_complete", "on_body",
)  # fmt: skip


def has_body(headers: list[tuple[bytes, bytes]]) -> bool:
    """`headers`: with names in lower case."""
    return any(name in _FRAMING for name, _ in headers)


def replace_parser(connection: HttpToolsProtocol) -> None:
    """Give `connection` a parser that stands behind the head which the present one has read.

    The connection is called back from there on: at once if the body is of length 0.
    """
    in_the_head = True

    def silent_in_the_head(callback: Callable[..., None]) -> Callable[..., None]:
        return lambda *args: None if in_the_head else callback(*args)

    callbacks = SimpleNamespace(
        **{name: silent_in_the_head(getattr(connection, name)) for name in _SILENT_IN_THE_HEAD},
        on_message_complete=connection.on_message_complete,
    )
    connection.parser = httptools.HttpRequestParser(callbacks)
    connection.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
    fields = [b"%b: %b\r\n" % field for field in connection.headers if field[0] in _FRAMING]
    if not connection.cycle.keep_alive:
        fields.append(b"connection: close\r\n")  # what follows this request is not a request
    connection.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(fields))
    in_the_head = False
