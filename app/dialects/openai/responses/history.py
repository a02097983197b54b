"""What precedes a request's own input: earlier responses, a conversation, items by their ids."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import orjson

from app.dialects.contract import Call
from app.dialects.openai.responses import kept_items
from app.dialects.openai.responses.body import ConversationId, PromptFields, ResponsesBody
from app.dialects.openai.responses.items import Item, ReferenceItem
from app.errors import InvalidRequest, ItemNotFound, UnsupportedParameter
from app.store.records import InConversation, LinkGone, NotAnswered, TooLong
from app.store.store import Store


class History(msgspec.Struct, kw_only=True):
    earlier: Sequence[Item] = ()
    responses: Sequence[str] = ()
    """Ids of the earlier ones."""
    referred: dict[str, Item] = {}
    """By the ids that the request has named."""
    conversation: str | None = None


def needs_store(body: PromptFields) -> bool:
    return (
        body.previous_response_id is not None
        or body.conversation is not None
        or (isinstance(body, ResponsesBody) and bool(body.background))
        or _references(body) != []
    )


def conversation_of(body: PromptFields) -> str | None:
    """Its id."""
    asked = body.conversation
    return asked.id if isinstance(asked, ConversationId) else asked


def check(body: PromptFields, store: Store | None) -> None:
    """Raises InvalidRequest, ItemNotFound for what could never be found."""
    if body.conversation is not None and body.previous_response_id is not None:
        raise InvalidRequest(
            "'conversation' and 'previous_response_id' exclude each other.",
            param="previous_response_id",
            code="mutually_exclusive_parameters",
        )
    if isinstance(body, ResponsesBody) and body.background and body.store is False:
        raise InvalidRequest(
            "'background' needs a response that is kept: 'store' must not be false.", param="store"
        )
    id = body.previous_response_id
    if id is not None and not id.startswith("resp"):
        raise InvalidRequest(
            "Invalid value for 'previous_response_id': must be an id that begins with 'resp'.",
            param="previous_response_id",
        )
    if store is None:
        _refuse(body)


async def load(body: PromptFields, call: Call, store: Store) -> History:
    """Raises InvalidRequest, ItemNotFound, StoreUnavailable, Overloaded."""
    references = _references(body)
    own = 1 if isinstance(body.input, str) else len(body.input or ())
    most_items = call.bounds.max_messages - own
    referred = await _resolve(references, call, store) if references else {}
    earlier: bytes = b""
    responses: Sequence[str] = ()
    if (id := body.previous_response_id) is not None:
        responses, earlier = await _chain(id, call, store, most_items)
    elif (conversation := conversation_of(body)) is not None:
        earlier = await _items_of(conversation, call, store, most_items)
    call.ticket.take_on(len(earlier))
    return History(
        earlier=kept_items.read(earlier),
        responses=responses,
        referred=referred,
        conversation=conversation_of(body),
    )


async def hold(id: str, call: Call, store: Store) -> None:
    """Lock a conversation for this response; `Store.release` ends that.

    Raises InvalidRequest, ItemNotFound, StoreUnavailable.
    """
    taken = await store.hold(call.owner, id, f"resp_{call.id}")
    if taken is None:
        raise _no_conversation(id)
    if not taken:
        raise InvalidRequest(
            "Another process is currently operating on this conversation. Please retry in a few "
            "seconds.",
            param="conversation",
            code="conversation_locked",
        )


def _refuse(body: PromptFields) -> None:
    for field in ("previous_response_id", "conversation", "background"):
        asked = getattr(body, field, None)
        if asked is not None and asked is not False:
            raise UnsupportedParameter(
                f"'{field}' needs a server that keeps responses; this one does not (STORE_URL). "
                "Please send the whole conversation as 'input'.",
                param=field,
            )
    if references := _references(body):
        raise ItemNotFound(
            f"Item with id '{references[0][:100]}' not found. Items are not kept by this server: "
            "please send the items themselves, as with 'store' set to false.",
            param="input",
        )


async def _chain(id: str, call: Call, store: Store, most_items: int) -> tuple[Sequence[str], bytes]:
    param = "previous_response_id"
    try:
        found = await store.chain(
            call.owner, id, most_bytes=call.most_body_bytes, most_items=most_items
        )
    except TooLong:
        raise _too_long(param, call) from None
    except NotAnswered as error:
        raise InvalidRequest(
            f"The response '{id[:100]}' cannot be gone on from: it is {error}.", param=param
        ) from None
    except LinkGone as error:
        raise InvalidRequest(
            f"Previous response with id '{id[:100]}' goes on from '{error}', which is not found: "
            "it was deleted, or is gone by age or by the bounds of the store.",
            param=param,
            code="previous_response_not_found",
        ) from None
    except InConversation as error:
        raise InvalidRequest(
            f"The response '{id[:100]}' is part of a conversation: please go on with "
            f"'conversation' {error}.",
            param=param,
        ) from None
    if found is None:
        raise InvalidRequest(
            f"Previous response with id '{id[:100]}' not found.",
            param=param,
            code="previous_response_not_found",
        )
    ids, turns = found
    return ids, b",".join([part for turn in turns for part in (turn.input, turn.output) if part])


async def _items_of(id: str, call: Call, store: Store, most_items: int) -> bytes:
    try:
        items = await store.history(
            call.owner, id, most_bytes=call.most_body_bytes, most_items=most_items
        )
    except TooLong:
        raise _too_long("conversation", call) from None
    if items is None:
        raise _no_conversation(id)
    return b",".join(items)


async def _resolve(ids: Sequence[str], call: Call, store: Store) -> dict[str, Item]:
    """Items of responses by their place; others are those of conversations."""
    places = {id: place for id in ids if (place := kept_items.place_of(id)) is not None}
    found: dict[str, bytes] = {}
    most = call.most_body_bytes
    try:
        for of_input in (False, True):
            wanted = {id: each for id, each in places.items() if each.of_input is of_input}
            responses = list(dict.fromkeys(each.response for each in wanted.values()))
            kept = await store.parts(call.owner, responses, of_input=of_input, most_bytes=most)
            for items in kept.values():
                most -= len(items)
                for item in orjson.loads(b"[%b]" % items):
                    if item.get("id") in wanted:
                        found.setdefault(item["id"], orjson.dumps(item))
        if rest := [id for id in ids if id not in found]:
            found |= await store.items(call.owner, rest, most_bytes=most)
    except TooLong:
        raise _too_long("input", call) from None
    for id in ids:
        if id not in found:
            raise ItemNotFound(
                f"Item with id '{id[:100]}' not found. Items are kept if 'store' is not false.",
                param="input",
            )
    call.ticket.take_on(sum(map(len, found.values())))
    return dict(zip(found, kept_items.read(b",".join(found.values())), strict=True))


def _references(body: PromptFields) -> list[str]:
    if not isinstance(body.input, list):
        return []
    ids = [item.id for item in body.input if isinstance(item, ReferenceItem)]
    return list(dict.fromkeys(ids))


def _too_long(param: str, call: Call) -> InvalidRequest:
    bounds = call.bounds
    return InvalidRequest(
        f"What '{param}' refers to has, with this request, over {bounds.max_messages} items "
        f"(MAX_MESSAGES), {call.most_body_bytes} bytes (MAX_BODY_BYTES) or 1000 responses.",
        param=param,
    )


def _no_conversation(id: str) -> ItemNotFound:
    return ItemNotFound(f"Conversation with id '{id[:100]}' not found.", param="conversation")
