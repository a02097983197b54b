"""A client that sends bytes as they are, over a socket; and requests to send, as bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.serving import HANGS_S, Running

GET = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"
CHAT = b'{"messages":[{"role":"user","content":"hi"}]}'
STREAM = b'{"messages":[{"role":"user","content":"hi"}],"stream":true}'


class RawClient:
    """One connection. What waits for the server fails once it must be hanging."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def send_all(self, data: bytes) -> None:
        """Raises ConnectionError if the server resets the connection."""
        for at in range(0, len(data), 10_000):
            self._writer.write(data[at : at + 10_000])
            await self._writer.drain()
            await asyncio.sleep(0.001)  # lets the event loop notice a reset

    async def send_forever(self) -> None:
        """Raises ConnectionError once the server has reset the connection."""
        async with asyncio.timeout(HANGS_S):
            while True:
                self._writer.write(b"x")
                await self._writer.drain()
                await asyncio.sleep(0.01)  # lets the event loop notice a reset

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer: status, headers, and a body that has a content-length."""
        async with asyncio.timeout(HANGS_S):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
            status, *lines = head.strip().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines)
            body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        return int(status.split()[1]), headers, body

    async def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        async with asyncio.timeout(HANGS_S):
            return await self._reader.read()

    async def refusal(self) -> tuple[int, str, str]:
        """Status, code and message of an error after which the connection ends."""
        status, headers, body = await self.answer()
        assert headers["connection"] == "close"
        assert headers["content-type"] == "application/json"
        error = json.loads(body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert await self.rest() == b""
        return status, error["code"], error["message"]


@asynccontextmanager
async def connect(running: Running) -> AsyncIterator[RawClient]:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.close()


def post(body: bytes, *headers: bytes, path: bytes = b"/v1/chat/completions") -> bytes:
    fields = b"".join(header + b"\r\n" for header in (b"host: x", *headers))
    return b"POST %b HTTP/1.1\r\ncontent-length: %d\r\n%b\r\n%b" % (path, len(body), fields, body)


def post_chunked(
    body: bytes, *headers: bytes, chunk_bytes: int = 20, end: bytes = b"0\r\n\r\n"
) -> bytes:
    """`end`: what follows the chunks; if not the last chunk, the body is broken or goes on."""
    chunks = [body[at : at + chunk_bytes] for at in range(0, len(body), chunk_bytes)]
    head = post(b"", *headers).replace(b"content-length: 0", b"transfer-encoding: chunked")
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + end


def get_of(size: int, *, path: bytes = b"/livez") -> bytes:
    """A request whose path and fields have `size` bytes together: name, value, and four for `: `
    and the line's end of each field."""
    padding = size - len(path) - len(b"host") - len(b"x") - 4 - len(b"x-padding") - 4
    return b"GET %b HTTP/1.1\r\nhost: x\r\nx-padding: %b\r\n\r\n" % (path, b"y" * padding)
