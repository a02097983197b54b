"""Thinking that a client keeps for the server, sealed or signed with a key.

Clients treat what an answer carries as `encrypted_content` as one opaque text, and send it back for
as long as the conversation lasts, to any server behind a router. Servers that share the keys open
each other's; the first key seals, all open, so that keys can be replaced. Without REASONING_KEYS
the key is made of API_KEY, which clients have: it keeps the thinking from others, not from them.

    r1.<base64url of: id of the key (4) | nonce (12) | AES-256-GCM of the compressed text>
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import zlib
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.settings.catalogue import Settings

_PREFIX = "r1."
_MOST_CHARS = 4 * 2**20
_MOST_OPENED = 8 * 2**20
"""Bytes of all texts of one request: what was compressed may be a thousand times as long."""


class Seal:
    def __init__(self, secrets: Sequence[str]) -> None:
        """`secrets`: of any length; none: one is made up, which this process alone knows."""
        keys = [_key(secret.encode()) for secret in secrets] or [os.urandom(32)]
        self._ciphers = {hashlib.sha256(key).digest()[:4]: AESGCM(key) for key in reversed(keys)}
        self._id = hashlib.sha256(keys[0]).digest()[:4]
        self._signing = hashlib.sha256(b"sign" + keys[0]).digest()

    @classmethod
    def of(cls, settings: Settings) -> Seal:
        """By REASONING_KEYS; without them by the API's keys, which replicas share, too."""
        secrets = settings.reasoning_keys or settings.api_key
        return cls([secret.get_secret_value() for secret in secrets])

    def close(self, text: str, owner: bytes = b"") -> str:
        """`owner`: who may have it opened again."""
        nonce = os.urandom(12)
        packed = zlib.compress(text.encode(errors="replace"), level=1)
        sealed = self._ciphers[self._id].encrypt(nonce, packed, owner)
        return _PREFIX + base64.urlsafe_b64encode(self._id + nonce + sealed).decode()

    def sign(self, text: str) -> str:
        """An opaque text, the same for the same `text`. Clients drop thinking without one; it is
        never checked, since what a client changes of its own conversation is its own affair."""
        digest = hmac.digest(self._signing, text.encode(errors="replace"), "sha256")
        return base64.b64encode(b"\x01" + digest[:20]).decode()

    def open(self, sealed: str, owner: bytes = b"", *, most: int = _MOST_OPENED) -> str | None:
        """None if it was not sealed here, for this owner, was changed, or has over `most` bytes."""
        if not sealed.startswith(_PREFIX) or len(sealed) > _MOST_CHARS:
            return None
        try:
            raw = base64.urlsafe_b64decode(sealed.removeprefix(_PREFIX))
            cipher = self._ciphers[raw[:4]]
            unpacking = zlib.decompressobj()
            text = unpacking.decompress(cipher.decrypt(raw[4:16], raw[16:], owner), most)
            return text.decode() if unpacking.eof else None
        except (binascii.Error, ValueError, KeyError, InvalidTag, zlib.error):
            return None


class Opening:
    """Opens what one request has brought, within a bound for all of it."""

    def __init__(self, seal: Seal, owner: bytes = b"") -> None:
        self._seal, self._owner = seal, owner
        self._left = _MOST_OPENED
        self.failed = 0

    def open(self, sealed: str) -> str | None:
        text = self._seal.open(sealed, self._owner, most=self._left) if self._left else None
        if text is None:
            self.failed += 1
        else:
            self._left = max(0, self._left - len(text.encode()))
        return text


def _key(secret: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"thinking").derive(secret)
