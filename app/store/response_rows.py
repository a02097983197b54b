"""Statements about responses. Each names the owner."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import and_, delete, func, insert, select, text, update

from app.store.conversation_rows import append_items, release_conversation
from app.store.database import Database
from app.store.records import (
    ANSWERED,
    RUNNING,
    Added,
    InConversation,
    Kept,
    LinkGone,
    NotAnswered,
    TooLong,
    Turn,
)
from app.store.tables import BODIES, RESPONSES, portions

MOST_LINKS = 1000
"""Responses of one history."""

# Each link by its key alone: PostgreSQL without statistics would rather search all of the owner's.
_CHAIN = """
WITH RECURSIVE chain(id, parent, depth) AS (
    SELECT id, parent, 0 FROM {r} WHERE id = :id AND owner = :owner
    UNION ALL
    SELECT r.id, r.parent, chain.depth + 1 FROM chain JOIN {r} r ON r.id = chain.parent
    WHERE r.owner || '' = :owner AND chain.depth < :links
), total AS (
    SELECT sum(r.context_size) <= :bytes AND sum(r.context_items) <= :items AS fits
    FROM chain JOIN {r} r ON r.id = chain.id
)
SELECT chain.id, chain.parent, r.status, r.conversation, total.fits,
       r.alive_until - {clock} AS left_s, b.input, coalesce(b.context, b.output) AS output
FROM chain JOIN {r} r ON r.id = chain.id CROSS JOIN total
     LEFT JOIN {b} b ON b.id = chain.id AND total.fits
ORDER BY chain.depth DESC
"""


class Put(NamedTuple):
    written: bool
    """False: the response was removed meanwhile."""
    added: bool
    """False: the conversation is not there, or has been another's since."""


class ResponseRows:
    """Raises SQLAlchemyError and OSError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # As text: to build it of its parts takes longer than to run it.
        self._chain = text(_CHAIN.format(clock=database.clock, r=RESPONSES.name, b=BODIES.name))

    async def put(
        self,
        owner: str,
        kept: Kept,
        *,
        begins: bool,
        server: str | None,
        alive_s: float,
        added: Added | None,
    ) -> Put:
        """Write a response, or what has become of it, and what it adds to its conversation.

        `begins`: False: it has been written before; if it was removed since, or taken for dead,
        nothing is written.
        `server`: who generates it, and is known to live for `alive_s`; None: it is complete.
        """
        row = {
            "status": kept.status,
            "used": time.time(),
            "size": kept.size,
            "context_size": kept.context_size,
            "context_items": kept.items,
            "server": server,
            "alive_until": self._database.clock + alive_s,
        }
        content: dict[str, bytes | None] = {"head": kept.head, "output": kept.output}
        content["tail"] = kept.tail
        content |= {"input": kept.input, "context": kept.context}
        async with self._database.writing() as connection:
            if not begins:
                known = await connection.execute(
                    update(RESPONSES)
                    .where(
                        RESPONSES.c.id == kept.id,
                        RESPONSES.c.owner == owner,
                        RESPONSES.c.status.in_(RUNNING),
                    )
                    .values(row)
                )
                if not known.rowcount:
                    return Put(written=False, added=False)
                await connection.execute(
                    update(BODIES).where(BODIES.c.id == kept.id).values(content)
                )
            else:
                new = {"id": kept.id, "owner": owner, "created": time.time(), "cancelled": False}
                new |= {"parent": kept.parent, "conversation": kept.conversation}
                await connection.execute(insert(RESPONSES).values(new | row))
                await connection.execute(insert(BODIES).values({"id": kept.id, **content}))
            has = True
            if added is not None:
                has = await append_items(
                    connection, owner, added.conversation, added.items, holder=kept.id
                )
                await release_conversation(connection, added.conversation, kept.id)
        return Put(written=True, added=has)

    async def fail_dead(self, owner: str, kept: Kept) -> bool:
        """Write that a response has failed whose server has died; False: it has not."""
        r = RESPONSES.c
        dead = and_(r.status.in_(RUNNING), r.alive_until <= self._database.clock)
        async with self._database.writing() as connection:
            known = await connection.execute(
                update(RESPONSES)
                .where(r.id == kept.id, r.owner == owner, dead)
                .values(status=kept.status, size=kept.size, server=None)
            )
            if known.rowcount:
                content = {"head": kept.head, "output": kept.output, "tail": kept.tail}
                await connection.execute(
                    update(BODIES).where(BODIES.c.id == kept.id).values(content)
                )
        return bool(known.rowcount)

    async def runs(self, owner: str, id: str, *, alive: bool) -> bool:
        """It is being generated. `alive`: by a server that is known to live."""
        r = RESPONSES.c
        mine = (r.id == id, r.owner == owner, r.status.in_(RUNNING))
        lives = (r.alive_until > self._database.clock,) if alive else ()
        async with self._database.reading() as connection:
            found = await connection.execute(select(r.id).where(*mine, *lives))
            return found.first() is not None

    async def get(self, owner: str, id: str) -> tuple[Kept, bool] | None:
        """A response; and whether it may still change."""
        r, b = RESPONSES.c, BODIES.c
        query = (
            select(
                r.status, r.parent, r.conversation, b.head, b.output, b.tail, b.input, b.context,
                r.context_items, (r.alive_until - self._database.clock).label("left_s"),
            )
            .join_from(RESPONSES, BODIES, b.id == r.id)
            .where(r.id == id, r.owner == owner)
        )  # fmt: skip
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).first()
        if row is None:
            return None
        kept = Kept(
            id=id,
            status=row.status,
            head=row.head,
            output=row.output,
            tail=row.tail,
            input=row.input,
            context=row.context,
            items=row.context_items,
            parent=row.parent,
            conversation=row.conversation,
        )
        return kept, row.status in RUNNING and row.left_s > 0

    async def parts(
        self, owner: str, ids: Sequence[str], *, of_input: bool, most_bytes: int
    ) -> dict[str, bytes]:
        """Inputs or outputs of several responses. Raises TooLong."""
        r, b = RESPONSES.c, BODIES.c
        part = b.input if of_input else func.coalesce(b.context, b.output)
        found: dict[str, bytes] = {}
        async with self._database.reading() as connection:
            for some in portions(ids):
                mine = and_(r.id.in_(some), r.owner == owner)
                lengths = select(func.sum(func.length(part))).join_from(
                    RESPONSES, BODIES, b.id == r.id
                )
                most_bytes -= int((await connection.execute(lengths.where(mine))).scalar() or 0)
                if most_bytes < 0:
                    raise TooLong
                rows = await connection.execute(
                    select(r.id, part.label("part"))
                    .join_from(RESPONSES, BODIES, b.id == r.id)
                    .where(mine)
                )
                found |= {row.id: row.part for row in rows}
        return found

    async def chain(
        self, owner: str, id: str, *, most_bytes: int, most_items: int
    ) -> tuple[list[str], list[Turn]] | None:
        """A response and those before it, the oldest first. None if it is not there.

        Raises LinkGone, TooLong, NotAnswered, InConversation.
        """
        values = {
            "id": id, "owner": owner, "links": MOST_LINKS, "bytes": most_bytes, "items": most_items,
        }  # fmt: skip
        async with self._database.reading() as connection:
            rows = (await connection.execute(self._chain, values)).all()
        if not rows:
            return None
        if rows[0].parent is not None and len(rows) <= MOST_LINKS:
            raise LinkGone(rows[0].parent)
        last = rows[-1]
        if last.status not in ANSWERED:
            dead = last.status in RUNNING and last.left_s <= 0
            raise NotAnswered("failed" if dead else last.status)
        if len(rows) > MOST_LINKS or not last.fits:
            raise TooLong
        if rows[0].conversation is not None:
            raise InConversation(rows[0].conversation)
        return [row.id for row in rows], [Turn(row.input, row.output) for row in rows]

    async def remove(self, owner: str, id: str) -> bool:
        async with self._database.writing() as connection:
            gone = await connection.execute(
                delete(RESPONSES).where(RESPONSES.c.id == id, RESPONSES.c.owner == owner)
            )
            if gone.rowcount:
                await connection.execute(delete(BODIES).where(BODIES.c.id == id))
        return bool(gone.rowcount)

    async def ask_to_cancel(self, owner: str, id: str) -> None:
        """For the server that generates it."""
        async with self._database.writing() as connection:
            await connection.execute(
                update(RESPONSES)
                .where(RESPONSES.c.id == id, RESPONSES.c.owner == owner)
                .values(cancelled=True)
            )

    async def asked_to_cancel(self, server: str) -> list[str]:
        r = RESPONSES.c
        query = select(r.id).where(r.server == server, r.cancelled.is_(True), r.status.in_(RUNNING))
        async with self._database.reading() as connection:
            return list((await connection.execute(query)).scalars())
