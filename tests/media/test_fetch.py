"""Pictures are fetched from where the operator allows, from checked addresses, within bounds."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpcore
import pytest

from app.media.fetch import Fetcher
from app.media.picture import CannotFetch

PUBLIC = "93.184.216.34"
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter, bytes], Awaitable[None]]


class Network(httpcore.AsyncNetworkBackend):
    """Every address is a server on loopback; remembers which were dialled."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._network = httpcore.AnyIOBackend()
        self.dialled: list[tuple[str, int]] = []

    async def connect_tcp(self, host: str, port: int, **options: Any) -> Any:
        self.dialled.append((host, port))
        return await self._network.connect_tcp("127.0.0.1", self._port)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Names:
    """A name server: each host's answers in turn, the last one for good."""

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        self._answers = {name.replace("_", "."): [*each] for name, each in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        answers = self._answers.get(host)
        if answers is None:
            return [PUBLIC]
        return answers.pop(0) if len(answers) > 1 else answers[0]


def response(body: bytes = b"picture", status: str = "200 OK", *fields: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *fields, "", ""]
    return "\r\n".join(head).encode() + body


@asynccontextmanager
async def serving(
    answers: bytes | dict[str, bytes] | Answer, names: Names | None = None, **options: Any
) -> AsyncIterator[tuple[Fetcher, Network]]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if callable(answers):
                    await answers(reader, writer, head)
                    return
                path = head.split(b" ", 2)[1].decode()
                writer.write(answers if isinstance(answers, bytes) else answers[path])
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    network = Network(server.sockets[0].getsockname()[1])
    settings: dict[str, Any] = {
        "hosts": ["*"], "plain_http": True, "max_bytes": 1000, "timeout_s": 5.0, **options,
    }  # fmt: skip
    fetcher = Fetcher(**settings, lookup=names or Names(), network=network)
    try:
        yield fetcher, network
    finally:
        await fetcher.close()
        server.close()


async def refused(fetcher: Fetcher, url: str) -> CannotFetch:
    with pytest.raises(CannotFetch) as error:
        await fetcher.fetch(url)
    return error.value


async def test_a_picture_is_fetched_from_the_address_that_was_checked() -> None:
    async with serving(response()) as (fetcher, network):
        assert await fetcher.fetch("http://example.com/a.png?b=c") == b"picture"
        assert network.dialled == [(PUBLIC, 80)]


async def test_the_request_says_which_host_and_asks_for_nothing_compressed() -> None:
    heads = []

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        heads.append(head.decode().lower())
        writer.write(response())

    async with serving(answer) as (fetcher, _):
        await fetcher.fetch("http://Example.com/a%20b?c=d")
    (head,) = heads
    assert head.startswith("get /a%20b?c=d http/1.1")
    assert "\r\nhost: example.com\r\n" in head
    assert "accept-encoding: identity" in head
    assert "cookie" not in head


@pytest.mark.parametrize(
    "url",
    ["file:///etc/hostname", "/etc/hostname", "a.png", "ftp://example.com/a", "http://",
     "http:///a", "http://u:p@example.com/", "http://example.com\\@127.0.0.1/", "gopher://a/",
     "http://exa mple.com/", "http://example.com/\n", "http://example.com:22/", "http://[::1",
     "http://" + "a" * 9000, "", "data:image/png;base64,xx", "http://example.com:99999/"],
)  # fmt: skip
async def test_what_is_no_url_of_a_picture_dials_nothing(url: str) -> None:
    names = Names()
    async with serving(response(), names) as (fetcher, network):
        assert (await refused(fetcher, url)).code == "invalid_image_url"
        assert (network.dialled, names.asked) == ([], [])


async def test_plain_http_is_not_spoken_unless_allowed() -> None:
    async with serving(response(), plain_http=False) as (fetcher, network):
        assert "https" in str(await refused(fetcher, "http://example.com/"))
        assert network.dialled == []


@pytest.mark.parametrize(
    ("hosts", "url", "allowed"),
    [
        (["example.com"], "http://example.com/", True),
        (["Example.com"], "http://EXAMPLE.com/", True),
        (["example.com"], "http://www.example.com/", False),
        (["example.com"], "http://example.com:8080/", False),
        (["example.com:8080"], "http://example.com:8080/", True),
        (["example.com:8080"], "http://example.com/", False),
        ([".example.com"], "http://a.example.com/", True),
        ([".example.com"], "http://aexample.com/", False),
        ([".example.com"], "http://example.com.evil.org/", False),
        (["*"], "http://example.com:8080/", False),
        (["bücher.example"], "http://bücher.example/", True),
        (["bücher.example"], "http://xn--bcher-kva.example/", True),
        (["xn--bcher-kva.example"], "http://bücher.example/", True),
        ([".bücher.example"], "http://a.bücher.example/", True),
        (["*"], "http://xn--a/", True),
        ([], "http://example.com/", False),
    ],
)
async def test_only_from_hosts_that_are_allowed(hosts: list[str], url: str, allowed: bool) -> None:
    async with serving(response(), hosts=hosts) as (fetcher, network):
        if allowed:
            assert await fetcher.fetch(url) == b"picture"
        else:
            assert "MEDIA_HOSTS" in str(await refused(fetcher, url))
            assert network.dialled == []


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["169.254.169.254"], ["10.0.0.1"], ["::1"], ["::ffff:127.0.0.1"], [],
     [PUBLIC, "127.0.0.1"], ["127.0.0.1", PUBLIC], ["64:ff9b::7f00:1"]],
)  # fmt: skip
async def test_a_host_with_an_address_that_is_not_public_is_not_dialled(
    addresses: list[str],
) -> None:
    async with serving(response(), Names(evil_org=[addresses])) as (fetcher, network):
        error = await refused(fetcher, "http://evil.org/")
        assert (error.code, str(error)) == ("image_fetch_failed", "could not be fetched")
        assert network.dialled == []


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0", "[::1]", "localhost",
     "[::ffff:127.0.0.1]", "169.254.169.254", "[64:ff9b::7f00:1]", "127.0.0.1.", "①27.0.0.1"],
)  # fmt: skip
async def test_no_spelling_of_this_machine_is_dialled(host: str) -> None:
    """By the system's own resolver."""
    async with serving(response()) as (_, network):
        fetcher = Fetcher(
            hosts=["*", host.lower()], plain_http=True, max_bytes=9, timeout_s=5, network=network
        )
        await refused(fetcher, f"http://{host}/")
        assert network.dialled == []


async def test_a_named_host_may_be_on_a_private_network() -> None:
    names = Names(store_internal=[["10.1.2.3"]])
    async with serving(response(), names, hosts=["store.internal", "*"]) as (fetcher, network):
        assert await fetcher.fetch("http://store.internal/a") == b"picture"
        assert network.dialled == [("10.1.2.3", 80)]
    async with serving(response(), names, hosts=["*"]) as (fetcher, network):
        await refused(fetcher, "http://store.internal/a")


async def test_a_name_that_changes_its_address_is_looked_up_once_for_each_connection() -> None:
    names = Names(evil_org=[[PUBLIC], ["127.0.0.1"]])

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        writer.write(response(b"x", "200 OK", "connection: close"))

    async with serving(answer, names) as (fetcher, network):
        assert await fetcher.fetch("http://evil.org/") == b"x"
        assert (network.dialled, names.asked) == ([(PUBLIC, 80)], ["evil.org"])
        await refused(fetcher, "http://evil.org/")
        assert network.dialled == [(PUBLIC, 80)]


def moved(location: str, status: str = "302 Found") -> bytes:
    return response(b"", status, f"location: {location}")


async def test_redirects_are_followed_and_each_is_checked() -> None:
    answers = {
        "/": moved("/two"), "/two": moved("http://other.org/three", "307 Temporary Redirect"),
        "/three": response(), "/evil": moved("http://evil.org/"),
        "/local": moved("http://127.0.0.1/"), "/file": moved("file:///etc/passwd"),
        "/port": moved("http://other.org:22/"), "/round": moved("/round"), "/no": moved("http://["),
    }  # fmt: skip
    names = Names(evil_org=[["10.0.0.1"]], **{"127_0_0_1": [["127.0.0.1"]]})
    async with serving(answers, names) as (fetcher, network):
        assert await fetcher.fetch("http://example.com/") == b"picture"
        for path in ("evil", "local", "file", "port", "round", "no"):
            await refused(fetcher, f"http://example.com/{path}")
        assert {address for address, _ in network.dialled} == {PUBLIC}


async def test_a_redirect_from_https_to_http_is_not_followed() -> None:
    fetcher = Fetcher(hosts=["*"], plain_http=True, max_bytes=9, timeout_s=5)
    import httpx

    with pytest.raises(CannotFetch, match="from https to http"):
        fetcher._redirected(httpx.URL("https://example.com/"), b"http://example.com/")


@pytest.mark.parametrize("status", ["404 Not Found", "500 Oops", "204 No Content", "206 Part"])
async def test_another_status_is_no_picture(status: str) -> None:
    async with serving(response(b"secret", status)) as (fetcher, _):
        error = await refused(fetcher, "http://example.com/")
        assert error.code == "image_fetch_failed"
        assert "secret" not in str(error)


async def test_past_the_bound_of_bytes_nothing_more_is_read() -> None:
    sent = 0

    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
        while True:
            writer.write(b"x" * 1000)
            sent += 1000
            await writer.drain()

    async with serving(endless) as (fetcher, _):
        assert (await refused(fetcher, "http://example.com/")).code == "image_too_large"
        assert sent < 20_000_000  # what fits into the sockets' buffers
    async with serving(response(b"x" * 1001)) as (fetcher, _):
        assert (await refused(fetcher, "http://example.com/")).code == "image_too_large"
    async with serving(response(b"x" * 1000)) as (fetcher, _):
        assert len(await fetcher.fetch("http://example.com/")) == 1000


@pytest.mark.parametrize("length", ["9" * 40, "1001"])
async def test_a_length_over_the_bound_is_refused_before_the_body(length: str) -> None:
    answer = f"HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n".encode()
    async with serving(answer) as (fetcher, _):
        await refused(fetcher, "http://example.com/")


async def test_what_is_compressed_is_not_unpacked() -> None:
    bomb = gzip.compress(b"\0" * 500_000)
    async with serving(response(bomb, "200 OK", "content-encoding: gzip")) as (fetcher, _):
        assert "compressed" in str(await refused(fetcher, "http://example.com/"))


async def test_a_server_that_drips_is_left_in_time() -> None:
    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with serving(drip, timeout_s=0.5) as (fetcher, _):
        began = time.monotonic()
        error = await refused(fetcher, "http://example.com/")
        assert (error.code, time.monotonic() - began < 3) == ("image_fetch_timeout", True)


@pytest.mark.parametrize(
    "answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx"]
)
async def test_a_broken_answer_is_no_picture(answer: bytes) -> None:
    async def broken(_: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        writer.write(answer)

    async with serving(broken) as (fetcher, _):
        assert (await refused(fetcher, "http://example.com/")).code == "image_fetch_failed"
