"""Statements that keep the store within its bounds, and say who is alive."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, Table, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.store.database import Database
from app.store.records import RUNNING
from app.store.tables import BODIES, CONVERSATIONS, ITEMS, KINDS, RESPONSES, portions

_AT_A_TIME = 500
"""Removed in one transaction."""


class Upkeep:
    """Raises SQLAlchemyError and OSError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def renew(
        self, server: str, claimed: Sequence[str], holders: Sequence[str], for_s: float
    ) -> None:
        """Say that the server goes on with responses, and that they hold their conversations."""
        r, c, until = RESPONSES.c, CONVERSATIONS.c, self._database.clock + for_s
        async with self._database.writing() as connection:
            for some in portions(sorted(claimed)):
                await connection.execute(
                    update(RESPONSES)
                    .where(r.id.in_(some), r.server == server, r.status.in_(RUNNING))
                    .values(alive_until=until, used=time.time())
                )
            for some in portions(sorted(holders)):
                await connection.execute(
                    update(CONVERSATIONS).where(c.held_by.in_(some)).values(held_until=until)
                )

    async def note_use(self, responses: Sequence[str], conversations: Sequence[str]) -> None:
        now = time.time()
        for table, ids in ((RESPONSES, responses), (CONVERSATIONS, conversations)):
            for some in portions(sorted(ids)):  # in one order: two servers must not wait for
                async with self._database.writing() as connection:  # each other
                    await connection.execute(
                        update(table).where(table.c.id.in_(some)).values(used=now)
                    )

    async def totals(self) -> tuple[int, int]:
        """How many responses and conversations there are, and their bytes."""
        async with self._database.reading() as connection:
            count, size = 0, 0
            for table, _ in KINDS:
                row = (await connection.execute(_totals(table))).one()
                count, size = count + row[0], size + int(row[1] or 0)
        return count, size

    async def remove_unused(self, before: float) -> int:
        """Remove what was last used before this time; returns how many."""
        removed = 0
        while True:
            async with self._database.writing() as connection:
                some = 0
                for table, _ in KINDS:
                    old = select(table.c.id).where(table.c.used < before).limit(_AT_A_TIME)
                    ids = list((await connection.execute(old)).scalars())
                    await _discard(connection, table, ids)
                    some += len(ids)
            removed += some
            if not some:
                return removed

    async def remove_oldest(self, *, count: int, size: int) -> int:
        """Remove what was used longest ago of the owner who has the most, until this many, with
        this many bytes, are left. So an owner with little loses nothing to one with much.

        Returns how many were removed.
        """
        removed = 0
        while True:
            async with self._database.writing() as connection:
                owners = await _owners(connection)
                over_count = sum(owned[0] for owned in owners.values()) - count
                over_size = sum(owned[1] for owned in owners.values()) - size
                if over_count <= 0 and over_size <= 0:
                    return removed
                by = 0 if over_count > 0 else 1
                owner = max(owners, key=lambda each: owners[each][by])
                gone: dict[str, list[str]] = {name: [] for _, name in KINDS}
                for kind, id, bytes_ in await _oldest(connection, owner, most=_AT_A_TIME):
                    if over_count <= 0 and over_size <= 0:
                        break
                    gone[kind].append(id)
                    over_count, over_size = over_count - 1, over_size - bytes_
                for table, name in KINDS:
                    await _discard(connection, table, gone[name])
                removed += sum(map(len, gone.values()))


def _totals(table: Table) -> Select[Any, Any]:
    return select(func.count(), func.sum(table.c.size)).select_from(table)


async def _owners(connection: AsyncConnection) -> dict[str, tuple[int, int]]:
    """Of each owner: how many, and their bytes."""
    owners: dict[str, tuple[int, int]] = {}
    for table, _ in KINDS:
        rows = await connection.execute(
            select(table.c.owner, func.count(), func.sum(table.c.size)).group_by(table.c.owner)
        )
        for owner, count, size in rows:
            had = owners.get(owner, (0, 0))
            owners[owner] = (had[0] + count, had[1] + int(size or 0))
    return owners


async def _oldest(
    connection: AsyncConnection, owner: str, *, most: int
) -> list[tuple[str, str, int]]:
    """Kind, id and bytes, the one that was used longest ago first. Of those of one history, which
    are used at one time, the newest is first: the others can do without it."""
    found: list[tuple[float, float, str, str, int]] = []
    for table, name in KINDS:
        c = table.c
        rows = await connection.execute(
            select(c.used, c.created, c.id, c.size)
            .where(c.owner == owner)
            .order_by(c.used, c.created.desc())
            .limit(most)
        )
        found += [(row.used, -row.created, name, row.id, row.size) for row in rows]
    return [(name, id, size) for _, _, name, id, size in sorted(found)[:most]]


async def _discard(connection: AsyncConnection, table: Table, ids: Sequence[str]) -> None:
    for some in portions(sorted(ids)):
        await connection.execute(delete(table).where(table.c.id.in_(some)))
        if table is RESPONSES:
            await connection.execute(delete(BODIES).where(BODIES.c.id.in_(some)))
        else:
            await connection.execute(delete(ITEMS).where(ITEMS.c.conversation.in_(some)))
