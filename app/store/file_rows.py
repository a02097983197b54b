"""Statements about files: which there are, whose, and how large. What they hold is elsewhere.

    begin ── grow ── keep          an upload: its row is there before its content
      └ (claim has ended) ─ stale ─ drop
    remove ─ drop                  a row outlives its content, so that none is forgotten

A row is the truth: content without a row is never looked for, and none is left without one.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import (
    ColumnElement,
    and_,
    delete,
    func,
    insert,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from app.store.database import Database
from app.store.records import FileLimits, FilePage, NoRoom, StoredFile
from app.store.rows import where
from app.store.tables import FILES, FILES_METADATA, portions

__all__ = ["Rows", "where"]

_ARRIVING, _KEPT, _LEAVING = "arriving", "kept", "leaving"
_COUNTING = 7265738
"""Any number that no other program locks."""
_AT_A_TIME = 100
_SHOWN = (
    FILES.c.id,
    FILES.c.created,
    FILES.c.expires,
    FILES.c.purpose,
    FILES.c.filename,
    FILES.c.size,
)


class Rows:
    """Raises SQLAlchemyError and OSError."""

    def __init__(self, url: str) -> None:
        """Raises ValueError, and ImportError if the database's driver is not installed."""
        self._sqlite = url.startswith("sqlite")
        self._database = Database(url, FILES_METADATA, survives_power=True)

    async def create(self) -> None:
        await self._database.create()

    async def close(self) -> None:
        await self._database.close()

    # -- uploads ---------------------------------------------------------------------------------

    async def begin(self, owner: str, id: str, limits: FileLimits, for_s: float) -> None:
        """Note an upload, which its server is known to receive for `for_s`. Raises NoRoom."""
        c = FILES.c
        async with self._counting() as connection:
            many = select(func.count()).select_from(FILES).where(c.owner == owner)
            if (await connection.execute(many)).scalar_one() >= limits.most_files:
                raise NoRoom("most_files")
            await connection.execute(
                insert(FILES).values(
                    id=id,
                    owner=owner,
                    status=_ARRIVING,
                    created=time.time(),
                    alive_until=self._database.clock + for_s,
                    purpose="",
                    filename="",
                    size=0,
                )
            )

    async def grow(self, owner: str, id: str, size: int, wished: int, limits: FileLimits) -> int:
        """Set bytes aside for an upload: `wished`, or as many as there is room for; `size` at
        least. Returns how many it has. Raises NoRoom."""
        c = FILES.c
        async with self._counting() as connection:
            others = select(func.coalesce(func.sum(c.size), 0)).where(c.id != id)
            total = int((await connection.execute(others)).scalar_one())
            mine = int((await connection.execute(others.where(c.owner == owner))).scalar_one())
            if mine + size > limits.most_owner_bytes:
                raise NoRoom("most_owner_bytes")
            if total + size > limits.most_bytes:
                raise NoRoom("most_bytes")
            had = min(wished, limits.most_owner_bytes - mine, limits.most_bytes - total)
            await connection.execute(update(FILES).where(c.id == id).values(size=had))
        return had

    async def keep(self, file: StoredFile) -> bool:
        """An upload is complete. False: it was taken for dead."""
        c = FILES.c
        async with self._database.writing() as connection:
            done = await connection.execute(
                update(FILES)
                .where(c.id == file.id, c.status == _ARRIVING)
                .values(
                    status=_KEPT,
                    created=file.created,
                    expires=file.expires,
                    alive_until=None,
                    purpose=file.purpose,
                    filename=file.filename,
                    size=file.size,
                )
            )
        return bool(done.rowcount)

    async def renew(self, ids: Sequence[str], for_s: float) -> None:
        """Say that uploads go on."""
        until = self._database.clock + for_s
        async with self._database.writing() as connection:
            for some in portions(sorted(ids)):
                await connection.execute(
                    update(FILES)
                    .where(FILES.c.id.in_(some), FILES.c.status == _ARRIVING)
                    .values(alive_until=until)
                )

    # -- files -----------------------------------------------------------------------------------

    async def find(self, owner: str, id: str) -> StoredFile | None:
        query = select(*_SHOWN).where(FILES.c.id == id, FILES.c.owner == owner, _is_there())
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).first()
        return None if row is None else _file(row)

    async def page(
        self, owner: str, *, after: str | None, limit: int, newest_first: bool, purpose: str | None
    ) -> FilePage | None:
        """None: the file `after` is not there."""
        c = FILES.c
        place = tuple_(c.created, c.id)
        query = select(*_SHOWN).where(c.owner == owner, _is_there())
        if purpose is not None:
            query = query.where(c.purpose == purpose)
        order = (c.created.desc(), c.id.desc()) if newest_first else (c.created, c.id)
        async with self._database.reading() as connection:
            if after is not None:
                marked = select(c.created).where(c.id == after, c.owner == owner, _is_there())
                created = (await connection.execute(marked)).scalar()
                if created is None:
                    return None
                mark = tuple_(created, after)
                query = query.where(place < mark if newest_first else place > mark)
            rows = (await connection.execute(query.order_by(*order).limit(limit + 1))).all()
        return FilePage([_file(row) for row in rows[:limit]], len(rows) > limit)

    async def remove(self, owner: str, id: str, for_s: float) -> bool:
        """From now on it is not there; its content is to be removed, by this server for `for_s`,
        and then it is to be dropped."""
        async with self._database.writing() as connection:
            done = await connection.execute(
                update(FILES)
                .where(FILES.c.id == id, FILES.c.owner == owner, _is_there())
                .values(status=_LEAVING, alive_until=self._database.clock + for_s)
            )
        return bool(done.rowcount)

    async def give_up(self, id: str, for_s: float) -> None:
        """As `remove`, for an upload that has failed."""
        async with self._database.writing() as connection:
            await connection.execute(
                update(FILES)
                .where(FILES.c.id == id)
                .values(status=_LEAVING, alive_until=self._database.clock + for_s)
            )

    async def drop(self, ids: Sequence[str]) -> None:
        """Forget files whose content is gone."""
        async with self._database.writing() as connection:
            for some in portions(sorted(ids)):
                await connection.execute(delete(FILES).where(FILES.c.id.in_(some)))

    async def stale(self, for_s: float) -> tuple[list[str], list[str]]:
        """Some files that are too old, and some uploads and removals whose server has died. They
        are this server's to remove, for `for_s`."""
        c, now = FILES.c, self._database.clock
        dead = and_(c.status.in_((_ARRIVING, _LEAVING)), c.alive_until < now)
        old = and_(c.status == _KEPT, c.expires <= time.time())
        found: list[list[str]] = []
        async with self._database.writing() as connection:
            for which in (old, dead):
                query = select(c.id).where(which).order_by(c.id).limit(_AT_A_TIME)
                ids = list((await connection.execute(query)).scalars())
                if ids:
                    await connection.execute(
                        update(FILES)
                        .where(c.id.in_(ids))
                        .values(status=_LEAVING, alive_until=now + for_s)
                    )
                found.append(ids)
        return found[0], found[1]

    @asynccontextmanager
    async def _counting(self) -> AsyncIterator[AsyncConnection]:
        """One at a time, among all servers: else two uploads could share the same room."""
        async with self._database.writing() as connection:
            if not self._sqlite:
                await connection.execute(text(f"SELECT pg_advisory_xact_lock({_COUNTING})"))
            yield connection


def _is_there() -> ColumnElement[bool]:
    c = FILES.c
    return and_(c.status == _KEPT, or_(c.expires.is_(None), c.expires > time.time()))


def _file(row: Any) -> StoredFile:
    return StoredFile(
        id=row.id,
        created=row.created,
        expires=row.expires,
        purpose=row.purpose,
        filename=row.filename,
        size=int(row.size),
    )
