"""Fetches pictures from hosts that the operator allows, within bounds of bytes and time.

    url ─ scheme, host, port ─ look up once ─ all addresses checked ─ dial the checked one ─ read
     ^                                                                                  │
     └──────────────────────────── redirect, three at most ─────────────────────────────┘

The check stands where the socket is opened, so that no spelling of a URL and no second answer of a
name server passes it by. TLS and the Host header are the URL's. No proxy, no cookies.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, TypeAlias

import httpcore
import httpx

from app import __version__
from app.media.addresses import is_dialled
from app.media.picture import CannotFetch

Lookup: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""Addresses of a host."""
_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 3
_PORTS = {"http": 80, "https": 443}
_MAX_URL = 8192
_LOOKUPS = 8
_HOST = re.compile(rb"[A-Za-z0-9._:-]+")


class Fetcher:
    """Fetches files over HTTP."""

    def __init__(
        self,
        *,
        hosts: Sequence[str],
        plain_http: bool,
        max_bytes: int,
        timeout_s: float,
        lookup: Lookup | None = None,
        network: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        """`hosts`: names, `.example.com` for all below it, `*` for every public host. One that is
        named may be on a private network, and with `name:port` at another port. `timeout_s`: for
        one picture, redirects included. `lookup`, `network`: others than the system's."""
        self._hosts = {_ascii(host) for host in hosts}
        self._schemes = ("https", "http") if plain_http else ("https",)
        self._max_bytes, self._timeout_s = max_bytes, timeout_s
        self._lookup = lookup or _Resolver()
        self._network = network or httpcore.AnyIOBackend()

    @cached_property
    def _pool(self) -> httpcore.AsyncConnectionPool:
        return httpcore.AsyncConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            network_backend=_Guard(self._dialled, self._network),
            max_connections=64,
            max_keepalive_connections=8,
            keepalive_expiry=10.0,
        )

    async def fetch(self, url: str) -> bytes:
        """Raises CannotFetch."""
        try:
            async with asyncio.timeout(self._timeout_s):
                for _ in range(_MAX_REDIRECTS + 1):
                    found = await self._get(self._checked(url))
                    if isinstance(found, bytes):
                        return found
                    url = found
                raise CannotFetch("image_fetch_failed", "is redirected too often")
        except TimeoutError:
            raise CannotFetch(
                "image_fetch_timeout",
                f"was not there within {self._timeout_s:g} s (MEDIA_FETCH_TIMEOUT)",
            ) from None

    async def close(self) -> None:
        if "_pool" in self.__dict__:
            await self._pool.aclose()

    def _checked(self, url: str) -> httpx.URL:
        if len(url) > _MAX_URL or "\\" in url or not url.isprintable() or " " in url:
            raise _invalid("is no URL")
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, ValueError):
            raise _invalid("is no URL") from None
        if parsed.scheme not in self._schemes:
            raise _invalid(f"must be at a URL with {' or '.join(self._schemes)}")
        if parsed.userinfo or not _HOST.fullmatch(parsed.raw_host):
            raise _invalid("must be at a URL with a host, and without a user")
        if not self._is_allowed(parsed.raw_host.decode(), parsed.port or _PORTS[parsed.scheme]):
            raise _invalid("is at a host or port from which none are fetched (MEDIA_HOSTS)")
        return parsed

    def _is_named(self, host: str, port: int) -> bool:
        if f"{host}:{port}" in self._hosts:
            return True
        return host in self._hosts and port in _PORTS.values()

    def _is_allowed(self, host: str, port: int) -> bool:
        host = host.lower()
        if self._is_named(host, port):
            return True
        if port not in _PORTS.values():
            return False
        below = any(each.startswith(".") and host.endswith(each) for each in self._hosts)
        return below or "*" in self._hosts

    async def _get(self, url: httpx.URL) -> bytes | str:
        """The file, or where it is."""
        headers = [
            (b"user-agent", f"serve-hathora/{__version__}".encode()),
            (b"accept", b"image/*"),
            (b"accept-encoding", b"identity"),
        ]
        target = httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        )
        try:
            async with self._pool.stream("GET", target, headers=headers) as response:
                fields = {name.lower(): value for name, value in response.headers}
                if response.status in _REDIRECTS and b"location" in fields:
                    return self._redirected(url, fields[b"location"])
                if response.status != 200:
                    raise CannotFetch(
                        "image_fetch_failed", f"was answered with status {response.status}"
                    )
                return await self._read(response, fields)
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError):
            # Which of them would tell of the network.
            raise CannotFetch("image_fetch_failed", "could not be fetched") from None

    def _redirected(self, url: httpx.URL, location: bytes) -> str:
        try:
            target = url.join(location.decode("ascii"))
        except (httpx.InvalidURL, ValueError):
            raise CannotFetch("image_fetch_failed", "is redirected to no URL") from None
        if url.scheme == "https" and target.scheme == "http":
            raise CannotFetch("image_fetch_failed", "is redirected from https to http")
        return str(target)

    async def _read(self, response: Any, fields: dict[bytes, bytes]) -> bytes:
        if fields.get(b"content-encoding", b"identity").lower() != b"identity":
            raise CannotFetch("image_fetch_failed", "came compressed, which was not asked for")
        length = fields.get(b"content-length", b"")
        if length.isdigit() and (len(length) > 18 or int(length) > self._max_bytes):
            raise self._too_large()
        parts, size = [], 0
        async for part in response.aiter_stream():
            size += len(part)
            if size > self._max_bytes:
                raise self._too_large()
            parts.append(part)
        return b"".join(parts)

    def _too_large(self) -> CannotFetch:
        return CannotFetch(
            "image_too_large", f"has more than {self._max_bytes} bytes (MEDIA_MAX_BYTES)"
        )

    async def _dialled(self, host: str, port: int) -> str:
        """The address to dial; all that the host has must be allowed. Raises CannotFetch."""
        try:
            addresses = await self._lookup(host, port)
        except (OSError, UnicodeError):
            addresses = ()
        private = self._is_named(host.lower(), port)
        if not addresses or not all(is_dialled(each, private=private) for each in addresses):
            raise CannotFetch("image_fetch_failed", "could not be fetched")
        return addresses[0]


class _Guard(httpcore.AsyncNetworkBackend):
    """Opens connections to checked addresses only."""

    def __init__(
        self,
        dialled: Callable[[str, int], Awaitable[str]],
        network: httpcore.AsyncNetworkBackend,
    ) -> None:
        self._dialled = dialled
        self._network = network

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        address = await self._dialled(host, port)
        return await self._network.connect_tcp(address, port, timeout=timeout)

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        raise httpcore.ConnectError("no file is a host")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def _invalid(reason: str) -> CannotFetch:
    return CannotFetch("invalid_image_url", reason)


class _Resolver:
    """The system's. In threads of its own: a look-up cannot be ended, and those that hang would
    take the threads of everything else."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="names")

    async def __call__(self, host: str, port: int) -> list[str]:
        def found() -> list[Any]:
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)

        loop = asyncio.get_running_loop()
        return [str(each[4][0]) for each in await loop.run_in_executor(self._threads, found)]


def _ascii(host: str) -> str:
    """As URLs have it: `*`, `.example.com`, `name`, `name:port`."""
    dot = "." if host.startswith(".") else ""
    name, colon, port = host.removeprefix(".").partition(":")
    try:
        return f"{dot}{httpx.URL(scheme='https', host=name).raw_host.decode()}{colon}{port}".lower()
    except (httpx.InvalidURL, ValueError):  # `*`
        return host.lower()
