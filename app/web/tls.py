"""TLS of the port: the certificate, its key, and the authorities of clients' certificates.

    Tls.read ─ start ─┬─ context ──> create_server(ssl=context), web/listening.py
    Tls.watch ────────┘  each new connection is made from what was read last

A pair of files that is wrong ends the start. One that becomes wrong later changes nothing but the
log: connections go on with what was read before.
"""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

from app.errors import ConfigError
from app.logs.setup import log
from app.settings.catalogue import Settings

_LOOK_S = 2.0
"""Between two looks at the files. A change is read once it has lasted for one of these: a
certificate and its key are two files, which are not replaced at the same moment."""
_PLAIN_HTTP = "http/1.1"


class Tls:
    """What connections are encrypted with, as the files have it."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError if the files are missing, wrong, or do not belong together."""
        self._settings = settings
        self._seen = self._look()
        """Of what is in force."""
        self._logged = ""
        self.context = _Renewable(ssl.PROTOCOL_TLS_SERVER)
        """For `create_server`; it stays the same object."""
        self.context.current = read(settings)

    @classmethod
    def of(cls, settings: Settings) -> Tls | None:
        """None: the port speaks plain HTTP. Raises ConfigError."""
        return cls(settings) if settings.ssl_certfile is not None else None

    async def watch(self) -> None:
        """Read the files again whenever they have changed, for ever. A reading that failed is tried
        again at the next look."""
        before = self._seen
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                now = await asyncio.to_thread(self._look)
                if now == self._seen:
                    self._logged = ""  # what failed is over: the same again is another failure
                elif now == before:
                    await self._read_again(now)
                before = now
            except ConfigError as error:
                self._log_failure(str(error))
            except Exception as error:  # such as that there are no threads left, for now
                self._log_failure(f"{type(error).__name__}: {error}")

    async def _read_again(self, seen: list[tuple[int, ...]]) -> None:
        self.context.current = await asyncio.to_thread(read, self._settings)
        self._seen, self._logged = seen, ""
        log.info("certificates were read again", certificate=self._settings.ssl_certfile)

    def _log_failure(self, reason: str) -> None:
        if reason != self._logged:
            self._logged = reason
            log.warning("certificates: the old ones stay in force", reason=reason)

    def _look(self) -> list[tuple[int, ...]]:
        """Changes whenever one of the files does; a link counts as what it leads to."""
        looks: list[tuple[int, ...]] = []
        for path in _files(self._settings):
            try:
                found = Path(path).stat()
            except OSError:
                looks.append(())
            else:
                looks.append((found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size))
        return looks


class _Renewable(ssl.SSLContext):
    """Event loops keep the context that a port was opened with, and ask it for each connection."""

    current: ssl.SSLContext

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        return self.current.wrap_bio(*args, **kwargs)


def read(settings: Settings) -> ssl.SSLContext:
    """A context of what the files hold now. Raises ConfigError, which names the setting."""
    certificate, key = settings.ssl_certfile, settings.ssl_keyfile or settings.ssl_certfile
    assert certificate is not None
    assert key is not None
    key_setting = "SSL_KEYFILE" if settings.ssl_keyfile else "SSL_CERTFILE"
    _must_hold(b"-----BEGIN CERTIFICATE-----", certificate, "SSL_CERTFILE", "certificate")
    _must_hold(b"PRIVATE KEY-----", key, key_setting, "private key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols([_PLAIN_HTTP])
    password = settings.ssl_keyfile_password
    try:
        # Without a password OpenSSL would ask for it on the terminal.
        context.load_cert_chain(
            certificate, key, lambda: password.get_secret_value() if password else ""
        )
    except ssl.SSLError as error:
        raise ConfigError(f"{key_setting}: {_explained(error, certificate, key)}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key_setting}: cannot read {key}: {error}") from None
    if settings.ssl_ca_certs is not None:
        _require_certificates(context, settings.ssl_ca_certs)
    return context


def _require_certificates(context: ssl.SSLContext, authorities: str) -> None:
    _must_hold(b"-----BEGIN CERTIFICATE-----", authorities, "SSL_CA_CERTS", "certificate")
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(authorities)
    except (OSError, ValueError) as error:
        raise ConfigError(f"SSL_CA_CERTS: cannot read {authorities}: {error}") from None


def _must_hold(marker: bytes, path: str, setting: str, what: str) -> None:
    try:
        held = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{setting}: cannot read {path}: {error.strerror}") from None
    if marker not in held:
        raise ConfigError(f"{setting}: {path} holds no {what} in the form PEM")


def _explained(error: ssl.SSLError, certificate: str, key: str) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"the key of {key} is not that of the certificate {certificate}"
    try:
        encrypted = b"ENCRYPTED" in Path(key).read_bytes()
    except OSError as unread:  # it was replaced meanwhile
        return f"cannot read {key}: {unread.strerror}"
    if encrypted:
        return f"{key} is encrypted, and SSL_KEYFILE_PASSWORD is missing or wrong"
    return f"{certificate} and {key} cannot be used: {error.reason or error}"


def _files(settings: Settings) -> list[str]:
    files = (settings.ssl_certfile, settings.ssl_keyfile, settings.ssl_ca_certs)
    return [each for each in files if each is not None]
