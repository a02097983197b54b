"""The store that the settings ask for."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from app.errors import ConfigError
from app.logs.setup import log
from app.settings.catalogue import Settings
from app.store.store import Store

FILE = "responses.sqlite3"
_PARAMETERS = {"sslmode", "ssl", "channel_binding", "application_name", "connect_timeout"}
"""Of a PostgreSQL URL."""


def store_of(settings: Settings) -> Store | None:
    """The store that the settings ask for; None: none. Raises ConfigError."""
    url = (settings.store_url or "").strip()
    if url.lower() == "off":
        return None
    if url.lower() == "memory":
        if settings.tokenizer_workers > 1:
            raise ConfigError("STORE_URL: TOKENIZER_WORKERS do not share a store in memory")
        url = "sqlite://"
    if not url:
        url = f"sqlite:///{_state_dir(settings.state_dir) / FILE}"
    _check_url(url)
    return Store(
        url,
        most_responses=settings.store_max_responses,
        most_bytes=settings.store_max_bytes,
        most_response_bytes=settings.store_max_response_bytes,
        ttl_s=settings.store_ttl_s,
    )


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    kind = parts.scheme.partition("+")[0]
    wrong = kind not in ("sqlite", "postgresql", "postgres")
    if wrong or (kind != "sqlite" and not parts.hostname):
        raise ConfigError(
            "STORE_URL: must be sqlite:///PATH, postgresql://USER:PASSWORD@HOST/NAME, memory or off"
        )
    if kind != "sqlite" and (unknown := parse_qs(parts.query).keys() - _PARAMETERS):
        raise ConfigError(f"STORE_URL: the parameter {min(unknown)[:40]!r} is not known here")


def _state_dir(name: str) -> Path:
    try:
        folder = Path(name).expanduser()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
        reason = "it is not writable"
    except (OSError, RuntimeError) as error:  # RuntimeError: this user has no home
        reason = str(error)
    log.warning("responses are kept as long as this server lives", STATE_DIR=name, reason=reason)
    return Path(tempfile.gettempdir())
