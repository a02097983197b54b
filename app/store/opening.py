"""The store that the settings ask for."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from app.logs.setup import log
from app.settings.catalogue import Settings
from app.store.store import Store

FILE = "responses.sqlite3"


def store_of(settings: Settings) -> Store | None:
    """The store that the settings ask for; None: none."""
    url = (settings.store_url or "").strip()
    if url.lower() == "off":
        return None
    if url.lower() == "memory":
        url = "sqlite://"
    return Store(
        url or default_url(settings),
        most_responses=settings.store_max_responses,
        most_bytes=settings.store_max_bytes,
        most_response_bytes=settings.store_max_response_bytes,
        ttl_s=settings.store_ttl_s,
    )


def default_url(settings: Settings) -> str:
    """Of the database without STORE_URL."""
    return f"sqlite:///{_state_dir(settings.state_dir) / FILE}"


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
