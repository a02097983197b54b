"""Certificates for servers and clients of tests, as files."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization


@dataclass
class Authority:
    """Signs certificates, and writes them where a server is to read them."""

    folder: Path

    def __post_init__(self) -> None:
        self._ca = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self.file = self.folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def issue(self, *names: str, into: str = "server") -> dict[str, str]:
        """A pair of files in the place of an earlier one; returns the settings that name them."""
        pair = self._ca.issue_cert(*(names or ("localhost", "127.0.0.1")))
        certificate, key = self.folder / f"{into}.pem", self.folder / f"{into}.key"
        _replace(certificate, b"".join(blob.bytes() for blob in pair.cert_chain_pems))
        _replace(key, pair.private_key_pem.bytes())
        return {"SSL_CERTFILE": str(certificate), "SSL_KEYFILE": str(key)}

    def encrypted(self, password: bytes) -> dict[str, str]:
        """The same, with a key that needs a password."""
        files = self.issue()
        key = serialization.load_pem_private_key(Path(files["SSL_KEYFILE"]).read_bytes(), None)
        form = serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(password)
        Path(files["SSL_KEYFILE"]).write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
        return files

    def spoil(self, name: str) -> None:
        (self.folder / name).write_text("half of a file")

    def remove(self, name: str) -> None:
        (self.folder / name).unlink()

    def client(self, certificate: str | None = None) -> ssl.SSLContext:
        """Trusts this authority alone. `certificate`: of `issue`, which it shows."""
        context = ssl.create_default_context(cafile=str(self.file))
        if certificate is not None:
            files = self.issue("client@example.org", into=certificate)
            context.load_cert_chain(files["SSL_CERTFILE"], files["SSL_KEYFILE"])
        return context


def _replace(path: Path, content: bytes) -> None:
    path.with_suffix(".new").write_bytes(content)
    os.replace(path.with_suffix(".new"), path)
