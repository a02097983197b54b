"""Where the content of files is: a folder or a bucket, by one protocol.

Names are this server's own ids, never a client's. Content is written once, and is there whole or
not at all.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

PIECE_BYTES = 2**20
"""That is written or read at a time, and so is in memory."""
_ID = re.compile(r"file-([0-9a-f]{2})([0-9a-f]{30})")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


class StorageFailed(Exception):
    """With a reason for the log, which has no secrets."""


class Writing(Protocol):
    """The content of one file, while it is written. Its calls follow one another."""

    async def write(self, data: bytes) -> None:
        """Raises StorageFailed."""

    async def finish(self) -> None:
        """Returns once the content is there whole, whatever happens then. Raises StorageFailed."""

    async def abandon(self) -> None:
        """Leave nothing behind, also of what was finished. Raises StorageFailed."""


class Storage(Protocol):
    def begin(self, id: str) -> Writing: ...

    def read(self, id: str, size: int) -> AsyncGenerator[bytes, None]:
        """The content in pieces. Raises StorageFailed, also if it has another size."""

    async def remove(self, id: str) -> None:
        """All that there is of a file, also of one that was not finished. Raises StorageFailed."""

    async def close(self) -> None: ...


def parts(id: str) -> tuple[str, str]:
    """Of a name: a folder would be slow with all files beside each other."""
    matched = _ID.fullmatch(id)
    assert matched is not None, "no id of ours"
    return matched[1], matched[2]


def folder_of(path: str) -> Path | None:
    """The folder that a setting names, by its path or as `file://`; None: it names a bucket."""
    matched = _SCHEME.match(path)
    if matched is None:
        return Path(path).expanduser()
    if matched[1].lower() == "file":
        return Path(unquote(urlsplit(path).path))
    return None
