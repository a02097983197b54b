"""Conversations: items that clients add, and that responses with `conversation` add to.

Source: OpenAI's OpenAPI document of 2026-08, and what openai-agents was seen to send.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Annotated, Any

import orjson
from pydantic import Field

from app.dialects.body import Body
from app.dialects.contract import Ask, Reply, Resource, Whole
from app.dialects.openai.responses import kept_items
from app.dialects.openai.responses.body import Metadata
from app.dialects.openai.responses.items import AnyItem, CompactionItem, Item, ReferenceItem
from app.dialects.openai.responses.listing import AFTER, INCLUDE, LIMIT, ORDER, Paging, listed
from app.errors import InvalidRequest, ItemNotFound, UnsupportedParameter
from app.store import records
from app.store.store import Store
from app.types import Json

_MOST_AT_ONCE = 20
_Items = Annotated[list[AnyItem], Field(max_length=_MOST_AT_ONCE, fail_fast=True)]


class NewConversation(Body):
    items: _Items | None = None
    """Items that the conversation begins with, at most 20."""
    metadata: Metadata | None = None
    """The client's own notes, at most 16 names and values."""


class ChangedConversation(Body):
    metadata: Metadata
    """The client's own notes, at most 16 names and values. They replace the ones that the
    conversation had."""


class NewItems(Body):
    items: Annotated[list[AnyItem], Field(min_length=1, max_length=_MOST_AT_ONCE, fail_fast=True)]
    """Items to add at the end of the conversation, at most 20."""


async def create(ask: Ask) -> Reply:
    body = ask.body
    assert isinstance(body, NewConversation)
    if ask.store is None:
        raise UnsupportedParameter(
            "Conversations need a server that keeps them; this one does not (STORE_URL)."
        )
    made = records.Conversation(
        id=f"conv_{os.urandom(16).hex()}",
        created=int(time.time()),
        metadata=orjson.dumps(body.metadata or {}),
    )
    await ask.store.start_conversation(ask.owner, made, _written(body.items or ()))
    return _shown(made)


async def retrieve(ask: Ask) -> Reply:
    return _shown(await _existing(_store(ask), ask))


async def change(ask: Ask) -> Reply:
    store, id = _store(ask), _id(ask)
    assert isinstance(ask.body, ChangedConversation)
    if not await store.describe(ask.owner, id, orjson.dumps(ask.body.metadata)):
        raise _not_found(id)
    return _shown(await _existing(store, ask))


async def end(ask: Ask) -> Reply:
    store, id = _store(ask), _id(ask)
    if not await store.end_conversation(ask.owner, id):
        raise _not_found(id)
    return Whole(orjson.dumps({"id": id, "object": "conversation.deleted", "deleted": True}))


async def list_items(ask: Ask) -> Reply:
    store, id = _store(ask), _id(ask)
    paging = Paging.of(ask)
    page = await store.page(
        ask.owner, id, after=paging.after, limit=paging.limit, newest_first=paging.newest_first
    )
    if page is None:
        await _existing(store, ask)
        raise ItemNotFound(f"Item with id '{str(paging.after)[:100]}' not found.", param="after")
    items = [kept_items.shown(orjson.loads(item.body)) for item in page.items]
    return listed(items, more=page.more)


async def add_items(ask: Ask) -> Reply:
    store, id = _store(ask), _id(ask)
    assert isinstance(ask.body, NewItems)
    items = _written(ask.body.items)
    if not await store.append(ask.owner, id, items):
        raise _not_found(id)
    return listed([kept_items.shown(orjson.loads(item.body)) for item in items], more=False)


async def retrieve_item(ask: Ask) -> Reply:
    store, id, item = _store(ask), _id(ask), ask.ids["item_id"]
    body = await store.item(ask.owner, id, item)
    if body is None:
        raise ItemNotFound(f"Item with id '{item[:100]}' not found.", param="item_id")
    return Whole(orjson.dumps(kept_items.shown(orjson.loads(body))))


async def remove_item(ask: Ask) -> Reply:
    store, id, item = _store(ask), _id(ask), ask.ids["item_id"]
    if not await store.remove_item(ask.owner, id, item):
        raise ItemNotFound(f"Item with id '{item[:100]}' not found.", param="item_id")
    return _shown(await _existing(store, ask))


def _written(items: Sequence[Any]) -> list[records.Item]:
    """Raises InvalidRequest."""
    checked: list[Item] = []
    for no, item in enumerate(items):
        if isinstance(item, ReferenceItem | CompactionItem):
            raise InvalidRequest(
                f"Invalid value for 'items[{no}]': must be an item itself.", param=f"items[{no}]"
            )
        checked.append(item)
    return kept_items.written(checked, os.urandom(16).hex(), anew=True)


async def _existing(store: Store, ask: Ask) -> records.Conversation:
    found = await store.conversation(ask.owner, _id(ask))
    if found is None:
        raise _not_found(_id(ask))
    return found


def _store(ask: Ask) -> Store:
    if ask.store is None:
        raise _not_found(_id(ask))
    return ask.store


def _id(ask: Ask) -> str:
    return ask.ids["conversation_id"]


def _shown(conversation: records.Conversation) -> Whole:
    json: Json = {
        "id": conversation.id,
        "object": "conversation",
        "created_at": conversation.created,
        "metadata": orjson.Fragment(conversation.metadata),
    }
    return Whole(orjson.dumps(json))


def _not_found(id: str) -> ItemNotFound:
    return ItemNotFound(f"Conversation with id '{id[:100]}' not found.", param="conversation_id")


_ONE = "/v1/conversations/{conversation_id}"
_ITEMS = f"{_ONE}/items"
_ITEM = f"{_ITEMS}/{{item_id}}"
RESOURCES = (
    Resource(
        method="POST",
        path="/v1/conversations",
        summary="Begin a conversation",
        answer=create,
        body=NewConversation,
        example={"items": [{"role": "user", "content": "My name is Ada."}]},
    ),
    Resource(method="GET", path=_ONE, summary="A conversation", answer=retrieve),
    Resource(
        method="POST",
        path=_ONE,
        summary="Change a conversation's metadata",
        answer=change,
        body=ChangedConversation,
        example={"metadata": {"topic": "names"}},
    ),
    Resource(method="DELETE", path=_ONE, summary="Remove a conversation", answer=end),
    Resource(
        method="GET",
        path=_ITEMS,
        summary="A conversation's items",
        answer=list_items,
        query={"limit": LIMIT, "order": ORDER, "after": AFTER, "include": INCLUDE},
    ),
    Resource(
        method="POST",
        path=_ITEMS,
        summary="Add items to a conversation",
        answer=add_items,
        body=NewItems,
        example={"items": [{"role": "user", "content": "What is my name?"}]},
    ),
    Resource(method="GET", path=_ITEM, summary="An item", answer=retrieve_item),
    Resource(method="DELETE", path=_ITEM, summary="Remove an item", answer=remove_item),
)
