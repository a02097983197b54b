"""What the store keeps, as its users give and get it: JSON that it does not look into."""

from __future__ import annotations

import re

import msgspec

_WELL_FORMED_ID = re.compile(r"[!-~]{1,256}")


def is_id(text: str) -> bool:
    """Other texts are ids of nothing; PostgreSQL takes no text with a zero."""
    return _WELL_FORMED_ID.fullmatch(text) is not None


RUNNING = ("in_progress",)
"""The statuses of a response that is being generated."""
ANSWERED = ("completed", "incomplete")
"""Of one that can be gone on from."""


class Kept(msgspec.Struct, kw_only=True):
    """One response."""

    id: str
    status: str
    head: bytes = b""
    """The response's JSON up to its output, which `output` and `tail` continue."""
    output: bytes = b""
    """Its items, with commas between them."""
    tail: bytes = b""
    input: bytes = b""
    """The items that it answers, as `output`: its request's own, not the earlier ones."""
    context: bytes | None = None
    """The output as a later request reads it, if that is not `output`."""
    items: int = 0
    """Of input and output."""
    parent: str | None = None
    conversation: str | None = None

    @property
    def body(self) -> bytes:
        return self.head + self.output + self.tail

    @property
    def context_size(self) -> int:
        """Bytes that it adds to a history."""
        return len(self.input) + len(self.output if self.context is None else self.context)

    @property
    def size(self) -> int:
        parts = (self.head, self.output, self.tail, self.input, self.context or b"")
        return sum(map(len, parts))


class Turn(msgspec.Struct):
    """What one response adds to a history: items, with commas between them."""

    input: bytes
    output: bytes


class Item(msgspec.Struct):
    """One item of a conversation."""

    id: str
    body: bytes


class Conversation(msgspec.Struct, kw_only=True):
    id: str
    created: int
    """Unix seconds."""
    metadata: bytes


class Page(msgspec.Struct):
    """A part of a conversation's items."""

    items: list[Item]
    more: bool


class Added(msgspec.Struct):
    """What a response adds to the conversation that it has locked."""

    conversation: str
    items: list[Item]


class StoredFile(msgspec.Struct, kw_only=True):
    id: str
    created: float
    """Unix seconds, as the next."""
    expires: float | None
    purpose: str
    filename: str
    size: int
    """Bytes."""


class FilePage(msgspec.Struct):
    """A part of an owner's files."""

    files: list[StoredFile]
    more: bool


class FileLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much may be kept."""

    most_files: int
    """Of one owner, as the next."""
    most_owner_bytes: int
    most_bytes: int
    """Of all owners together."""


class NoRoom(Exception):
    """A file does not fit; with the name of the limit, as of `FileLimits`."""

    def __init__(self, limit: str) -> None:
        super().__init__(limit)
        self.limit = limit


class TooLong(Exception):
    """A history has more links, items or bytes than may be read."""


class TooLarge(Exception):
    """A response has more bytes than are kept."""


class NotAnswered(Exception):
    """A response is not complete, or never will be; with its status."""


class NotKept(Exception):
    """It was removed while it was generated, or taken for dead."""


class LinkGone(Exception):
    """A response goes on from one that is not there, whose id this has."""


class InConversation(Exception):
    """A response is part of a conversation, which has its history."""
