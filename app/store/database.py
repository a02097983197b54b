"""One database: its engine, and transactions that read or write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Float,
    MetaData,
    event,
    literal_column,
    text,
)
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool

from app.awake import AWAKE
from app.store.tables import METADATA

_BUSY_S = 5.0
_DEAD_S = 30.0
"""After a freeze of so long connections may be dead."""
_PAGES = 10_000
"""That are given back at a time."""
_CREATING = 7265737
"""Any number that no other program locks."""


def driver_url(url: str) -> str:
    """The URL with the driver that is used for it."""
    parsed = make_url(url)
    if parsed.drivername.startswith("sqlite"):
        return parsed.set(drivername="sqlite+aiosqlite").render_as_string(hide_password=False)
    query = dict(parsed.query)
    if (mode := query.pop("sslmode", None)) is not None:  # libpq's word, as hosters write it
        query["ssl"] = mode
    for ignored in ("channel_binding", "application_name", "connect_timeout"):
        query.pop(ignored, None)
    parsed = parsed.set(drivername="postgresql+asyncpg", query=query)
    return parsed.render_as_string(hide_password=False)


class Database:
    """One database. Raises SQLAlchemyError and OSError."""

    def __init__(
        self, url: str, metadata: MetaData = METADATA, *, survives_power: bool = False
    ) -> None:
        """`metadata`: the tables that are in it. `survives_power`: what is committed to a file of
        SQLite is on the disk, and not only with the system."""
        self._metadata = metadata
        self._sqlite = url.startswith("sqlite")
        self._engine = (
            _sqlite_engine(url, survives_power) if self._sqlite else _postgres_engine(url)
        )
        # A connection of before a freeze is none any more, and would say so only after seconds.
        self._end_forgetting = AWAKE.on_thaw(self._forget)
        free = nullcontext()
        self._to_write: AbstractAsyncContextManager[Any] = asyncio.Lock() if self._sqlite else free
        """SQLite has one writer; waiting here is cheaper than in the database."""
        in_memory = isinstance(self._engine.pool, StaticPool)
        self._to_read: AbstractAsyncContextManager[Any] = self._to_write if in_memory else free
        """In memory there is one connection for all."""

    async def create(self) -> None:
        async with self.writing() as connection:
            if not self._sqlite:  # two servers may begin at the same time
                await connection.execute(text(f"SELECT pg_advisory_xact_lock({_CREATING})"))
            await connection.run_sync(self._metadata.create_all)

    async def close(self) -> None:
        self._end_forgetting()
        await self._engine.dispose()

    def _forget(self, frozen_s: float) -> None:
        if not self._sqlite and frozen_s > _DEAD_S:
            self._engine.sync_engine.dispose(close=False)

    async def shrink(self) -> None:
        """Give the disk back what was removed."""
        if self._sqlite:
            async with self.writing() as connection:
                await connection.exec_driver_sql(f"PRAGMA incremental_vacuum({_PAGES})")

    @property
    def clock(self) -> ColumnElement[float]:
        """Unix seconds by the database, which several servers share: their own clocks differ."""
        if self._sqlite:
            return literal_column("((julianday('now') - 2440587.5) * 86400.0)", Float)
        return literal_column("CAST(extract(epoch FROM clock_timestamp()) AS float8)", Float)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        async with self._to_write, self._engine.begin() as connection:
            yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        async with self._to_read, self._engine.connect() as connection:
            # What must be seen at one moment is read by one statement: without a transaction
            # PostgreSQL is asked twice less.
            isolation = {} if self._sqlite else {"isolation_level": "AUTOCOMMIT"}
            await connection.execution_options(reads=True, **isolation)
            yield connection


def _sqlite_engine(url: str, survives_power: bool) -> AsyncEngine:
    parsed = make_url(url)
    options: dict[str, Any] = {"connect_args": {"timeout": _BUSY_S}}
    if not parsed.database or parsed.database == ":memory:":
        options["poolclass"] = StaticPool
    else:
        file = Path(parsed.database)
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.touch(mode=0o600)
        options["pool_size"] = 4
    engine = create_async_engine(driver_url(url), **options)

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _: object) -> None:
        connection.isolation_level = None  # its own would begin transactions too late
        for pragma in (
            "auto_vacuum=INCREMENTAL",
            "journal_mode=WAL",
            # Either way what is committed survives the end of the process.
            f"synchronous={'FULL' if survives_power else 'NORMAL'}",
            f"journal_size_limit={64 * 2**20}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        reads = connection.get_execution_options().get("reads")
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


def _postgres_engine(url: str) -> AsyncEngine:
    return create_async_engine(
        driver_url(url),
        pool_size=4,
        max_overflow=4,
        pool_pre_ping=True,
        connect_args={
            "timeout": _BUSY_S,
            "command_timeout": 2 * _BUSY_S,
            # To compile a statement takes longer than any of these runs, and joins are always of a
            # few rows by their keys, whatever the database guesses.
            "server_settings": {
                "application_name": "serve_hathora",
                "jit": "off",
                "enable_hashjoin": "off",
                "enable_mergejoin": "off",
            },
        },
    )
