"""What web/connection.py asks of transports beyond their interface."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import sys
import termios
from collections.abc import Callable

_BYTES_ACKED = 120
UNIX_CLIENT = "unix"
"""Stands for the address of a client on a unix socket."""


class AnswerTransport:
    """The transport that answers are written to: its `close` waits for a client that is sending."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close


def is_unix(transport: asyncio.Transport) -> bool:
    sock = transport.get_extra_info("socket")
    return sock is not None and sock.family == socket.AF_UNIX


def unacknowledged(transport: asyncio.Transport) -> int:
    """Bytes that the kernel has and the client's kernel has not.

    On TLS the loop's buffer behind the encryption cannot be asked; it is empty if this is 0.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or (fd := sock.fileno()) < 0:
        return 0
    unsent: int = struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, b"\0" * 4))[0]
    return unsent


def acknowledged(transport: asyncio.Transport) -> int:
    """Bytes that the client's kernel has got since the connection began; 0 where it is not known.

    `tcpi_bytes_acked` of linux/tcp.h, since Linux 4.1.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return 0
    known = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED + 8)
    return int.from_bytes(known[_BYTES_ACKED:], sys.byteorder)
