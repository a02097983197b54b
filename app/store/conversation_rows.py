"""Statements about conversations and their items. Each names the owner."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sqlalchemy import and_, delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.store.database import Database
from app.store.records import Conversation, Item, Page, TooLong
from app.store.tables import CONVERSATIONS, ITEMS, portions


class ConversationRows:
    """Raises SQLAlchemyError and OSError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def start(self, owner: str, made: Conversation, items: Sequence[Item]) -> None:
        now = time.time()
        async with self._database.writing() as connection:
            await connection.execute(
                insert(CONVERSATIONS).values(
                    id=made.id,
                    owner=owner,
                    created=made.created,
                    used=now,
                    metadata=made.metadata,
                    size=len(made.metadata),
                )
            )
            await append_items(connection, owner, made.id, items)

    async def conversation(self, owner: str, id: str) -> Conversation | None:
        c = CONVERSATIONS.c
        query = select(c.created, c.metadata).where(c.id == id, c.owner == owner)
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).first()
        if row is None:
            return None
        return Conversation(id=id, created=int(row.created), metadata=row[1])

    async def describe(self, owner: str, id: str, metadata: bytes) -> bool:
        c = CONVERSATIONS.c
        async with self._database.writing() as connection:
            done = await connection.execute(
                update(CONVERSATIONS)
                .where(c.id == id, c.owner == owner)
                .values(metadata=metadata, used=time.time())
            )
        return bool(done.rowcount)

    async def end(self, owner: str, id: str) -> bool:
        """Remove a conversation with its items."""
        c = CONVERSATIONS.c
        async with self._database.writing() as connection:
            gone = await connection.execute(
                delete(CONVERSATIONS).where(c.id == id, c.owner == owner)
            )
            if gone.rowcount:
                await connection.execute(delete(ITEMS).where(ITEMS.c.conversation == id))
        return bool(gone.rowcount)

    async def append(
        self, owner: str, id: str, items: Sequence[Item], *, holder: str | None = None
    ) -> bool:
        async with self._database.writing() as connection:
            return await append_items(connection, owner, id, items, holder=holder)

    async def history(
        self, owner: str, id: str, *, most_bytes: int, most_items: int
    ) -> list[bytes] | None:
        """All items of a conversation. Raises TooLong."""
        c, i = CONVERSATIONS.c, ITEMS.c
        async with self._database.reading() as connection:
            mine = select(c.size).where(c.id == id, c.owner == owner)
            size = (await connection.execute(mine)).scalar()
            if size is None:
                return None
            many = select(func.count()).select_from(ITEMS).where(i.conversation == id)
            if size > most_bytes or (await connection.execute(many)).scalar_one() > most_items:
                raise TooLong
            query = select(i.body).where(i.conversation == id).order_by(i.place)
            return list((await connection.execute(query)).scalars())

    async def page(
        self,
        owner: str,
        id: str,
        *,
        after: str | None,
        limit: int,
        newest_first: bool,
        most_bytes: int,
    ) -> Page | None:
        """Items of a conversation, one at least, fewer than `limit` if they have more bytes.

        None if the conversation, or the item `after`, is not there.
        """
        i = ITEMS.c
        order = i.place.desc() if newest_first else i.place
        query = (
            select(i.place, func.length(i.body).label("size"))
            .where(i.conversation == id)
            .order_by(order)
            .limit(limit + 1)
        )
        async with self._database.reading() as connection:
            if not await _owns(connection, owner, id):
                return None
            if after is not None:
                place = await _place(connection, id, after)
                if place is None:
                    return None
                query = query.where(i.place < place if newest_first else i.place > place)
            places = (await connection.execute(query)).all()
            fitting, size = 0, 0
            for row in places[:limit]:
                size += row.size
                if fitting and size > most_bytes:
                    break
                fitting += 1
            wanted = [row.place for row in places[:fitting]]
            rows = await connection.execute(
                select(i.id, i.body)
                .where(i.conversation == id, i.place.in_(wanted))
                .order_by(order)
            )
            items = [Item(row.id, row.body) for row in rows]
        return Page(items, len(places) > fitting)

    async def item(self, owner: str, id: str, item: str) -> bytes | None:
        i = ITEMS.c
        query = select(i.body).where(i.conversation == id, i.id == item).limit(1)
        async with self._database.reading() as connection:
            if not await _owns(connection, owner, id):
                return None
            body: bytes | None = (await connection.execute(query)).scalar()
        return body

    async def remove_item(self, owner: str, id: str, item: str) -> bool:
        c, i = CONVERSATIONS.c, ITEMS.c
        async with self._database.writing() as connection:
            if not await _owns(connection, owner, id):
                return False
            place = await _place(connection, id, item)
            if place is None:
                return False
            this = and_(i.conversation == id, i.place == place)
            size = (await connection.execute(select(func.length(i.body)).where(this))).scalar()
            await connection.execute(delete(ITEMS).where(this))
            await connection.execute(
                update(CONVERSATIONS).where(c.id == id).values(size=c.size - int(size or 0))
            )
        return True

    async def items(self, owner: str, ids: Sequence[str], *, most_bytes: int) -> dict[str, bytes]:
        """Items of any of the owner's conversations. Raises TooLong."""
        c, i = CONVERSATIONS.c, ITEMS.c
        found: dict[str, bytes] = {}
        async with self._database.reading() as connection:
            for some in portions(ids):
                mine = and_(i.id.in_(some), c.owner == owner)
                lengths = select(func.sum(func.length(i.body))).join_from(
                    ITEMS, CONVERSATIONS, c.id == i.conversation
                )
                most_bytes -= int((await connection.execute(lengths.where(mine))).scalar() or 0)
                if most_bytes < 0:
                    raise TooLong
                rows = await connection.execute(
                    select(i.id, i.body)
                    .join_from(ITEMS, CONVERSATIONS, c.id == i.conversation)
                    .where(mine)
                )
                found |= {row.id: row.body for row in rows}
        return found

    async def hold(self, owner: str, id: str, response: str, for_s: float) -> bool | None:
        """Lock a conversation for a response. False: another has it; None: it is not there."""
        c, now = CONVERSATIONS.c, self._database.clock
        free = or_(c.held_by.is_(None), c.held_until < now, c.held_by == response)
        async with self._database.writing() as connection:
            taken = await connection.execute(
                update(CONVERSATIONS)
                .where(c.id == id, c.owner == owner, free)
                .values(held_by=response, held_until=now + for_s)
            )
            if taken.rowcount:
                return True
            return False if await _owns(connection, owner, id) else None

    async def release(self, id: str, response: str) -> None:
        async with self._database.writing() as connection:
            await release_conversation(connection, id, response)


async def _owns(connection: AsyncConnection, owner: str, conversation: str) -> bool:
    c = CONVERSATIONS.c
    query = select(c.id).where(c.id == conversation, c.owner == owner)
    return (await connection.execute(query)).first() is not None


async def _place(connection: AsyncConnection, conversation: str, item: str) -> int | None:
    i = ITEMS.c
    query = select(func.max(i.place)).where(i.conversation == conversation, i.id == item)
    place: int | None = (await connection.execute(query)).scalar()
    return place


async def append_items(
    connection: AsyncConnection,
    owner: str,
    conversation: str,
    items: Sequence[Item],
    *,
    holder: str | None = None,
) -> bool:
    """`holder`: the response that must hold it."""
    c, i = CONVERSATIONS.c, ITEMS.c
    size = sum(len(item.body) for item in items)
    mine = await connection.execute(  # first of all: it locks the row, so that places are unique
        update(CONVERSATIONS)
        .where(c.id == conversation, c.owner == owner, *([c.held_by == holder] if holder else []))
        .values(size=c.size + size, used=time.time())
    )
    if not mine.rowcount:
        return False
    last = select(func.max(i.place)).where(i.conversation == conversation)
    place = (await connection.execute(last)).scalar() or 0
    if items:
        await connection.execute(
            insert(ITEMS),
            [
                {
                    "conversation": conversation,
                    "place": place + no,
                    "id": item.id,
                    "body": item.body,
                }
                for no, item in enumerate(items, 1)
            ],
        )
    return True


async def release_conversation(
    connection: AsyncConnection, conversation: str, response: str
) -> None:
    c = CONVERSATIONS.c
    await connection.execute(
        update(CONVERSATIONS)
        .where(c.id == conversation, c.held_by == response)
        .values(held_by=None, held_until=None)
    )
