"""All statements of the store, on one database."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import make_url

from app.store.conversation_rows import ConversationRows
from app.store.database import Database
from app.store.response_rows import ResponseRows
from app.store.upkeep import Upkeep


def where(url: str) -> str:
    """Which database it is, for the log."""
    parsed = make_url(url)
    if parsed.drivername.startswith("sqlite"):
        return str(Path(parsed.database).absolute()) if parsed.database else "memory"
    return parsed.set(query={}).render_as_string(hide_password=True)


class Rows:
    def __init__(self, url: str) -> None:
        """Raises ValueError, and ImportError if the database's driver is not installed."""
        self._database = Database(url)
        self.responses = ResponseRows(self._database)
        self.conversations = ConversationRows(self._database)
        self.upkeep = Upkeep(self._database)

    async def create(self) -> None:
        await self._database.create()

    async def shrink(self) -> None:
        await self._database.shrink()

    async def close(self) -> None:
        await self._database.close()
