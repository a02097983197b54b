"""TLS on the port: certificates, clients' certificates, bounds, and ends of connections."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from app.errors import ConfigError
from app.settings.catalogue import Settings
from app.web import connection, tls
from app.web.listening import bind
from app.web.tls import Tls, read
from tests.support.certificates import Authority
from tests.support.raw_client import CHAT, GET, STREAM, RawClient, post
from tests.support.scripted import ScriptedEngine
from tests.support.serving import HANGS_S, Running, eventually, serve, settings


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "_LOOK_S", 0.02)


@asynccontextmanager
async def connect(running: Running, context: ssl.SSLContext) -> AsyncIterator[RawClient]:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", running.port, ssl=context, server_hostname="localhost"
    )
    try:
        yield RawClient(reader, writer)
    finally:
        writer.transport.abort()


async def test_an_answer_comes_over_tls(authority: Authority) -> None:
    async with serve(
        ScriptedEngine("hi"), client_tls=authority.client(), **authority.issue()
    ) as running:
        answer = await running.chat()
        assert answer.json()["choices"][0]["message"]["content"] == "hi"
        streamed = await running.chat(stream=True)
        assert streamed.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_versions_from_1_2_on_are_spoken(
    authority: Authority, version: ssl.TLSVersion
) -> None:
    context = authority.client()
    context.minimum_version = context.maximum_version = version
    async with (
        serve(ScriptedEngine("hi"), client_tls=context, **authority.issue()) as running,
        connect(running, context) as client,
    ):
        client.send(GET)
        assert (await client.answer())[0] == 200


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
async def test_tls_1_1_is_refused(authority: Authority) -> None:
    async with serve(ScriptedEngine("hi"), **authority.issue()) as running:
        context = authority.client()
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            async with connect(running, context):
                pass


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01"])
async def test_a_handshake_that_does_not_go_on_ends_after_the_time_for_a_head(
    authority: Authority, sent: bytes
) -> None:
    async with serve(ScriptedEngine("hi"), HEADER_TIMEOUT="0.3", **authority.issue()) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(sent)
        began = time.monotonic()
        async with asyncio.timeout(HANGS_S):
            await _until_the_end(reader)
        assert time.monotonic() - began > 0.25
        writer.close()


@pytest.mark.parametrize(
    "sent", [GET, b"\0" * 4096, b"SSH-2.0-x\r\n", b"\x16\x03\x01\xff\xff" * 99]
)
async def test_what_is_not_tls_ends_its_connection_and_no_other(
    authority: Authority, sent: bytes
) -> None:
    async with serve(
        ScriptedEngine("hi"), client_tls=authority.client(), **authority.issue()
    ) as running:
        for _ in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
            writer.write(sent)
            async with asyncio.timeout(HANGS_S):
                assert b"HTTP/1.1" not in await _until_the_end(reader)
            writer.close()
        assert (await running.chat()).status_code == 200
        assert len(running.connections) <= 1


async def test_a_connection_that_says_nothing_after_its_handshake_ends(
    authority: Authority,
) -> None:
    context = authority.client()
    async with (
        serve(ScriptedEngine("hi"), HEADER_TIMEOUT="0.2", **authority.issue()) as running,
        connect(running, context) as client,
    ):
        assert await client.rest() == b""
        await eventually(lambda: not running.connections)


async def test_a_slow_head_is_refused_in_the_apis_form(authority: Authority) -> None:
    context = authority.client()
    async with (
        serve(ScriptedEngine("hi"), HEADER_TIMEOUT="0.2", **authority.issue()) as running,
        connect(running, context) as client,
    ):
        client.send(b"GET /livez HTTP/1.1\r\nhost:")
        assert (await client.refusal())[:2] == (408, "request_timeout")


async def test_a_refusal_is_read_by_a_client_that_is_still_sending(authority: Authority) -> None:
    context = authority.client()
    head = b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * 200_000
    async with (
        serve(ScriptedEngine("hi"), **authority.issue()) as running,
        connect(running, context) as client,
    ):
        client.send(head)
        client.send(b"z" * 300_000)
        assert (await client.refusal())[0] == 431
        await eventually(lambda: not running.connections)


async def test_a_client_that_ignores_the_end_of_tls_keeps_no_connection(
    authority: Authority,
) -> None:
    """As pools do, which look at an idle connection only when they need it."""
    async with serve(ScriptedEngine("hi"), **authority.issue()) as running:
        ending = post(CHAT, b"connection: close")
        async with _deaf(running, authority.client(), ending) as rest:
            await eventually(lambda: bool(running.connections))
            began = time.monotonic()
            await eventually(lambda: not running.connections)
            assert time.monotonic() - began < 20  # WRITE_TIMEOUT is 60
            assert b"200 OK" in rest()


async def test_a_large_answer_arrives_whole_before_its_connection_ends(
    authority: Authority,
) -> None:
    text = "x" * 3_000_000
    async with serve(ScriptedEngine(text), **authority.issue()) as running:
        ending = post(CHAT, b"connection: close")
        async with _deaf(running, authority.client(), ending) as rest:
            await asyncio.sleep(3)  # longer than a client may linger
            assert text.encode() in await asyncio.to_thread(rest)


async def test_a_client_that_reads_slowly_gets_all_of_its_last_answer(
    authority: Authority,
) -> None:
    text = "x" * 12_000_000
    async with serve(ScriptedEngine(text), WRITE_TIMEOUT="4", **authority.issue()) as running:
        ending = post(CHAT, b"connection: close")
        async with _deaf(running, authority.client(), ending, slow=True) as rest:
            assert text.encode() in await asyncio.to_thread(rest)


async def test_a_client_that_reads_nothing_is_cut_off(authority: Authority) -> None:
    engine = ScriptedEngine(*["x" * 100_000] * 200)
    async with serve(engine, WRITE_TIMEOUT="0.5", **authority.issue()) as running:
        body = b'{"messages":[{"role":"user","content":"hi"}],"stream":true}'
        async with _deaf(running, authority.client(), post(body)):
            await eventually(lambda: running.gate.in_flight == 1)
            await eventually(lambda: running.gate.in_flight == 0)
            await eventually(lambda: not running.connections)


async def test_a_client_that_ends_tls_and_stays_is_gone(
    authority: Authority, no_kernel_timeout: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads nothing of what was sent before its close_notify, which the loop waits for."""
    monkeypatch.setattr(connection, "_TLS_UNREAD_BYTES", 100_000_000)
    engine = ScriptedEngine("x" * 12_000_000, asyncio.Event())
    async with serve(engine, WRITE_TIMEOUT="0.5", **authority.issue()) as running:
        client = await asyncio.to_thread(_sender, running, authority.client(), post(STREAM))
        with client:
            await eventually(lambda: engine.running == 1)
            await asyncio.sleep(0.5)  # the first part is on its way
            client.setblocking(False)
            with suppress(ssl.SSLError):  # it has the server's data to read before its end
                client.unwrap()
            await eventually(lambda: engine.aborted == 1 and running.gate.in_flight == 0)
            await eventually(lambda: not running.connections)


async def test_new_connections_get_the_new_certificate(
    authority: Authority, looks_often: None
) -> None:
    context = authority.client()
    async with serve(
        ScriptedEngine("hi"), client_tls=context, **authority.issue("localhost", "127.0.0.1")
    ) as running:
        before = await _certificate(running.port, context)
        async with connect(running, context) as client:
            authority.issue("localhost", "127.0.0.1", "new.example.org")
            await eventually(lambda: _differs(running.port, context, before))
            client.send(GET)  # the old connection goes on
            assert (await client.answer())[0] == 200


async def test_a_broken_file_keeps_the_old_certificate_and_is_told_once(
    authority: Authority, looks_often: None
) -> None:
    context = authority.client()
    files = authority.issue()
    with capture_logs() as lines:
        async with serve(ScriptedEngine("hi"), client_tls=context, **files) as running:
            before = await _certificate(running.port, context)
            authority.spoil("server.key")
            await eventually(lambda: "certificates: the old ones stay in force" in _events(lines))
            await asyncio.sleep(0.2)
            assert await _certificate(running.port, context) == before
            authority.remove("server.pem")
            await asyncio.sleep(0.2)
            assert await _certificate(running.port, context) == before
            authority.issue()
            await eventually(lambda: _differs(running.port, context, before))
    told = [each for each in lines if each["event"].startswith("certificates: the old")]
    assert [each["reason"].split(":")[0] for each in told] == ["SSL_KEYFILE", "SSL_CERTFILE"]


async def test_a_file_that_is_missing_again_is_told_again(
    authority: Authority, looks_often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = authority.issue()
    certificate = Path(files["SSL_CERTFILE"])
    away = certificate.with_suffix(".away")
    looked: list[object] = []
    look = Tls._look

    def watched(self: Tls) -> list[tuple[int, ...]]:
        looked.append(found := look(self))
        return found

    async def several_looks() -> None:
        so_far = len(looked)
        await eventually(lambda: len(looked) > so_far + 3)

    def move(path: Path, to: Path) -> None:
        path.rename(to)

    monkeypatch.setattr(Tls, "_look", watched)
    with capture_logs() as lines:
        async with serve(ScriptedEngine("hi"), client_tls=authority.client(), **files):
            for times in (1, 2):
                move(certificate, away)
                await several_looks()
                assert _events(lines).count("certificates: the old ones stay in force") == times
                move(away, certificate)
                await several_looks()


@pytest.mark.parametrize(
    "error",
    [ConfigError("SSL_KEYFILE: no"), OSError("too many files"), RuntimeError("no new thread")],
    ids=lambda error: type(error).__name__,
)
async def test_a_reading_that_failed_is_tried_again_and_told_once(
    authority: Authority, looks_often: None, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    context = authority.client()
    failures = [error] * 5

    def fails(configured: Settings) -> ssl.SSLContext:
        if failures:
            raise failures.pop()
        return read(configured)

    with capture_logs() as lines:
        async with serve(ScriptedEngine("hi"), client_tls=context, **authority.issue()) as running:
            before = await _certificate(running.port, context)
            monkeypatch.setattr(tls, "read", fails)
            authority.issue()
            await eventually(lambda: _differs(running.port, context, before))
    assert _events(lines).count("certificates: the old ones stay in force") == 1


def test_a_key_that_goes_while_it_is_read_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "server.key")
    error = ssl.SSLError()
    error.reason = "NO_START_LINE"
    assert f"cannot read {missing}: No such" in tls._explained(error, "c.pem", missing)


async def test_clients_need_a_certificate_of_the_authority(
    authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    stranger = authority.client()
    files = other.issue("client@example.org")
    stranger.load_cert_chain(files["SSL_CERTFILE"], files["SSL_KEYFILE"])
    known = authority.client("client")
    async with serve(
        ScriptedEngine("hi"),
        client_tls=known,
        SSL_CA_CERTS=str(authority.file),
        **authority.issue(),
    ) as running:
        assert (await running.chat()).status_code == 200
        for context in (authority.client(), stranger):
            async with httpx.AsyncClient(verify=context) as client:
                with pytest.raises(httpx.TransportError):
                    await client.get(f"https://127.0.0.1:{running.port}/livez")
        await eventually(lambda: len(running.connections) <= 1)


async def test_the_health_port_stays_plain(authority: Authority, unused_tcp_port: int) -> None:
    async with (
        serve(
            ScriptedEngine("hi"),
            PORT_HEALTH=str(unused_tcp_port),
            SSL_CA_CERTS=str(authority.file),
            client_tls=authority.client("client"),
            **authority.issue(),
        ) as running,
        httpx.AsyncClient() as probe,
    ):
        health = await probe.get(f"http://127.0.0.1:{unused_tcp_port}/health")
        assert health.status_code == 200
        models = await probe.get(f"http://127.0.0.1:{unused_tcp_port}/v1/models")
        assert models.status_code == 404
        assert (await running.client.get("/v1/models")).status_code == 200


def _wrong(authority: Authority) -> Iterator[tuple[dict[str, str], str]]:
    files = authority.issue()
    missing, empty = str(authority.folder / "missing.pem"), authority.folder / "empty.pem"
    empty.write_text("")
    yield {**files, "SSL_CERTFILE": missing}, f"SSL_CERTFILE: cannot read {missing}: No such file"
    yield {**files, "SSL_KEYFILE": missing}, f"SSL_KEYFILE: cannot read {missing}: No such file"
    yield {**files, "SSL_CERTFILE": str(empty)}, "SSL_CERTFILE: .* holds no certificate"
    yield {**files, "SSL_KEYFILE": str(empty)}, "SSL_KEYFILE: .* holds no private key"
    yield {"SSL_CERTFILE": files["SSL_CERTFILE"]}, "SSL_CERTFILE: .* holds no private key"
    yield {**files, "SSL_CA_CERTS": str(empty)}, "SSL_CA_CERTS: .* holds no certificate"
    other = authority.issue(into="other")
    mixed = {**files, "SSL_KEYFILE": other["SSL_KEYFILE"]}
    yield mixed, "SSL_KEYFILE: the key of .* is not that of the certificate"
    cut = authority.folder / "cut.pem"
    cut.write_text(Path(files["SSL_CERTFILE"]).read_text()[:300])
    yield {**files, "SSL_CERTFILE": str(cut)}, "SSL_KEYFILE: .*cut.pem and .* cannot be used"
    locked = authority.encrypted(b"secret")
    yield locked, "is encrypted, and SSL_KEYFILE_PASSWORD is missing or wrong"
    yield {**locked, "SSL_KEYFILE_PASSWORD": "x"}, "SSL_KEYFILE_PASSWORD is missing or wrong"


def test_wrong_files_end_the_start_with_one_line(authority: Authority) -> None:
    for environment, expected in _wrong(authority):
        with pytest.raises(ConfigError, match=expected) as refused:
            bind(settings(**environment))
        assert "\n" not in str(refused.value)
        assert refused.value.exit_code == 78


def test_a_key_may_be_encrypted_and_may_stand_beside_its_certificate(authority: Authority) -> None:
    locked = authority.encrypted(b"secret")
    read(settings(**locked, SSL_KEYFILE_PASSWORD="secret"))
    files = authority.issue()
    both = authority.folder / "both.pem"
    both.write_text("".join(Path(each).read_text() for each in files.values()))
    read(settings(SSL_CERTFILE=str(both)))


async def _until_the_end(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


def _events(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    return [each["event"] for each in lines]


async def _certificate(port: int, context: ssl.SSLContext) -> bytes | None:
    def ask() -> bytes | None:
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as client,
        ):
            return client.getpeercert(binary_form=True)

    return await asyncio.to_thread(ask)


async def _differs(port: int, context: ssl.SSLContext, before: bytes | None) -> bool:
    return await _certificate(port, context) != before


@asynccontextmanager
async def _deaf(
    running: Running, context: ssl.SSLContext, sent: bytes, *, slow: bool = False
) -> AsyncIterator[Callable[[], bytes]]:
    """A client that sends and then neither reads nor closes. Yields what reads the rest; `slow`: in
    six seconds."""

    receives = 65_536 if slow else None
    client = await asyncio.to_thread(_sender, running, context, sent, receives)

    def read() -> bytes:
        if slow:
            time.sleep(0.0075)  # the largest record of TLS has 16 KB
        return client.recv(100_000)

    with client:
        yield lambda: b"".join(iter(read, b""))


def _sender(
    running: Running, context: ssl.SSLContext, sent: bytes, receives: int | None = None
) -> ssl.SSLSocket:
    """`receives`: the bytes that the client's kernel keeps for it."""
    plain = socket.socket()
    if receives is not None:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
    plain.settimeout(HANGS_S)
    plain.connect(("127.0.0.1", running.port))
    client = context.wrap_socket(plain, server_hostname="localhost")
    client.sendall(sent)
    return client
