"""The store's tables, the same in SQLite and in PostgreSQL.

responses ── one row each: whose, when used, how large; its parent, or its conversation
bodies ───── their JSON, apart, so that noting a use does not write it again
conversations ── items: their JSON, numbered

files ─────── one row each, of what is in a folder or a bucket: apart, as they may be in another
              database than the rest
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)

_AT_A_TIME = 500
"""Values of one statement."""

_PREFIX = "serve1_"
"""With the number of this form of the tables: those of another release are left alone."""

METADATA = MetaData()
RESPONSES = Table(
    f"{_PREFIX}responses",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("created", Float, nullable=False),
    Column("used", Float, nullable=False),
    Column("parent", String(64)),
    Column("conversation", String(64)),
    Column("status", String(16), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("context_size", BigInteger, nullable=False),
    Column("context_items", Integer, nullable=False),
    Column("server", String(32), index=True),
    Column("alive_until", Float),
    Column("cancelled", Boolean, nullable=False, default=False),
    Index(f"{_PREFIX}responses_by_use", "owner", "used"),
)
BODIES = Table(
    f"{_PREFIX}bodies",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("head", LargeBinary, nullable=False),
    Column("output", LargeBinary, nullable=False),
    Column("tail", LargeBinary, nullable=False),
    Column("input", LargeBinary, nullable=False),
    Column("context", LargeBinary),
)
CONVERSATIONS = Table(
    f"{_PREFIX}conversations",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("created", Float, nullable=False),
    Column("used", Float, nullable=False),
    Column("metadata", LargeBinary, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("held_by", String(64)),
    Column("held_until", Float),
    Index(f"{_PREFIX}conversations_by_use", "owner", "used"),
)
ITEMS = Table(
    f"{_PREFIX}items",
    METADATA,
    Column("conversation", String(64), primary_key=True),
    Column("place", Integer, primary_key=True),
    Column("id", String(256), nullable=False, index=True),
    Column("body", LargeBinary, nullable=False),
)
FILES_METADATA = MetaData()
FILES = Table(
    f"{_PREFIX}files",
    FILES_METADATA,
    Column("id", String(64), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("status", String(16), nullable=False, index=True),
    Column("created", Float, nullable=False),
    Column("expires", Float, index=True),
    Column("alive_until", Float),
    Column("purpose", String(32), nullable=False),
    Column("filename", String(255), nullable=False),
    Column("size", BigInteger, nullable=False),
    Index(f"{_PREFIX}files_by_time", "owner", "created", "id"),
)
KINDS = ((RESPONSES, "responses"), (CONVERSATIONS, "conversations"))


def portions(values: Iterable[str]) -> list[list[str]]:
    all_of_them = list(values)
    return [all_of_them[at : at + _AT_A_TIME] for at in range(0, len(all_of_them), _AT_A_TIME)]
