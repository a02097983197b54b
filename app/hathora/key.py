"""The service account's key: from a setting to credentials, never to the disk or into a message.

The signer is made here already, so an unusable key stops the start and not a registration later.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from app.errors import ConfigError

if TYPE_CHECKING:
    from google.oauth2.service_account import Credentials

_NAME = "GCP_SERVICE_ACCOUNT_KEY_BASE64"


def read_key(encoded: str) -> tuple[Credentials, str]:
    """Return credentials, and the project that the key names ("" if none). Raises ConfigError."""
    # No error is raised while another one is handled: the errors of base64 and JSON carry the key,
    # and a traceback would show them.
    if encoded.lstrip().startswith("{"):
        raise ConfigError(f"{_NAME} is JSON; it must be the base64 of that")
    key = _decode("".join(encoded.split()))
    if key is None:
        raise ConfigError(f"{_NAME} is not base64, or not complete")
    info = _parse(key)
    if info is None:
        raise ConfigError(f"{_NAME} is not the base64 of a JSON object")
    for field in ("client_email", "private_key", "token_uri"):
        if not isinstance(info.get(field), str) or not info[field]:
            raise ConfigError(f"{_NAME} is not a service account's key: it has no {field}")
    credentials = _credentials_or_none(info)
    if credentials is None:
        raise ConfigError(f"{_NAME} has a private_key that cannot be used: no RSA key in PEM form")
    return credentials, str(info.get("project_id") or "")


def _decode(encoded: str) -> bytes | None:
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError:
        return None


def _parse(key: bytes) -> dict[str, object] | None:
    try:
        info = json.loads(key)
    except (ValueError, RecursionError):
        return None
    return info if isinstance(info, dict) else None


def _credentials_or_none(info: dict[str, object]) -> Credentials | None:
    try:
        return _credentials(info)
    except (ValueError, TypeError, AttributeError):
        return None


def _credentials(key: Mapping[str, object]) -> Credentials:
    """Raises ValueError or TypeError unless this is a service account's key that can sign."""
    from google.oauth2 import service_account

    class Credentials(service_account.Credentials):
        def _is_regional_access_boundary_lookup_required(self) -> bool:
            # google-auth (2.62) would call iamcredentials.googleapis.com in a thread of its own,
            # even where GCP_API_ENDPOINT names another host. The look-up is optional: without it
            # one header is not sent. Drop when google-auth has an option for it.
            return False

    credentials = Credentials.from_service_account_info(  # type: ignore[no-untyped-call]
        key, scopes=["https://www.googleapis.com/auth/compute"]
    )
    credentials.sign_bytes(b"a key of the wrong kind fails here, not at the first call")
    assert isinstance(credentials, Credentials)
    return credentials
