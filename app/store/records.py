"""What the store keeps, as its users give and get it: JSON that it does not look into."""

from __future__ import annotations

import msgspec


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
    parent: str | None = None
    conversation: str | None = None

    @property
    def body(self) -> bytes:
        return self.head + self.output + self.tail

    @property
    def size(self) -> int:
        return len(self.head) + len(self.output) + len(self.tail) + len(self.input)


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


class TooLong(Exception):
    """A history has more links or bytes than may be read."""


class InProgress(Exception):
    """A response is not complete yet."""


class InConversation(Exception):
    """A response is part of a conversation, which has its history."""
