"""What precedes a request's own input: earlier responses, a conversation, items by their ids."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import orjson

from app.dialects.contract import Call
from app.dialects.openai.responses import kept_items
from app.dialects.openai.responses.body import ConversationId, PromptFields, ResponsesBody
from app.dialects.openai.responses.items import Item, ReferenceItem
from app.errors import InvalidRequest, ItemNotFound, UnsupportedParameter, too_many
from app.store.records import InConversation, InProgress, TooLong
from app.store.store import Store


class History(msgspec.Struct, kw_only=True):
    earlier: Sequence[Item] = ()
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


async def load(body: PromptFields, call: Call, *, hold: bool = True) -> History:
    """Raises InvalidRequest, ItemNotFound, StoreUnavailable.

    `hold`: lock the conversation for this response; `Store.release` ends that.
    """
    conversation = _conversation(body)
    if conversation is not None and body.previous_response_id is not None:
        raise InvalidRequest(
            "'conversation' and 'previous_response_id' exclude each other.",
            param="previous_response_id",
            code="mutually_exclusive_parameters",
        )
    references = _references(body)
    if call.store is None:
        _refuse(body, references)
        return History()
    referred = await _resolve(references, call, call.store) if references else {}
    earlier: list[Item] = []
    if body.previous_response_id is not None:
        earlier = await _chain(body.previous_response_id, call, call.store)
    elif conversation is not None:
        if hold:
            await _hold(conversation, call, call.store)
        try:
            earlier = await _items_of(conversation, call, call.store)
        except BaseException:
            await call.store.release(conversation, f"resp_{call.id}")
            raise
    own = 1 if isinstance(body.input, str) else len(body.input or ())
    if len(earlier) + own > call.bounds.max_messages:
        raise too_many("input", call.bounds.max_messages)
    return History(earlier=earlier, referred=referred, conversation=conversation)


def _refuse(body: PromptFields, references: Sequence[str]) -> None:
    for field in ("previous_response_id", "conversation", "background"):
        if getattr(body, field, None):
            raise UnsupportedParameter(
                f"'{field}' needs a server that keeps responses; this one does not (STORE_URL). "
                "Please send the whole conversation as 'input'.",
                param=field,
            )
    if references:
        raise ItemNotFound(
            f"Item with id '{references[0][:100]}' not found. Items are not kept by this server: "
            "please send the items themselves, as with 'store' set to false.",
            param="input",
        )


async def _chain(id: str, call: Call, store: Store) -> list[Item]:
    param = "previous_response_id"
    try:
        turns = await store.chain(call.owner, id, most_bytes=call.bounds.max_body_bytes)
    except TooLong:
        raise _too_long(param, call) from None
    except InProgress:
        raise InvalidRequest(
            f"The response '{id[:100]}' is not complete yet.", param=param
        ) from None
    except InConversation as error:
        raise InvalidRequest(
            f"The response '{id[:100]}' is part of a conversation: please go on with "
            f"'conversation' {error}.",
            param=param,
        ) from None
    if turns is None:
        raise InvalidRequest(
            f"Previous response with id '{id[:100]}' not found.",
            param=param,
            code="previous_response_not_found",
        )
    kept = [part for turn in turns for part in (turn.input, turn.output) if part]
    return kept_items.read(b",".join(kept))


async def _items_of(id: str, call: Call, store: Store) -> list[Item]:
    try:
        items = await store.history(call.owner, id, most_bytes=call.bounds.max_body_bytes)
    except TooLong:
        raise _too_long("conversation", call) from None
    if items is None:
        raise _no_conversation(id)
    return kept_items.read(b",".join(items))


async def _hold(id: str, call: Call, store: Store) -> None:
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


async def _resolve(ids: Sequence[str], call: Call, store: Store) -> dict[str, Item]:
    """Items of responses by their place; others are those of conversations."""
    places = {id: place for id in ids if (place := kept_items.place_of(id)) is not None}
    found: dict[str, bytes] = {}
    most = call.bounds.max_body_bytes
    try:
        responses = await store.parts(
            call.owner, list({place.response for place in places.values()}), most_bytes=most
        )
        for response, turn in responses.items():
            wanted = {id for id, place in places.items() if place.response == response}
            for kept in (turn.output, turn.input):
                for item in orjson.loads(b"[%b]" % kept):
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
    return dict(zip(found, kept_items.read(b",".join(found.values())), strict=True))


def _references(body: PromptFields) -> list[str]:
    if not isinstance(body.input, list):
        return []
    ids = [item.id for item in body.input if isinstance(item, ReferenceItem)]
    return list(dict.fromkeys(ids))


def _conversation(body: PromptFields) -> str | None:
    asked = body.conversation
    return asked.id if isinstance(asked, ConversationId) else asked


def _too_long(param: str, call: Call) -> InvalidRequest:
    return InvalidRequest(
        f"What '{param}' refers to has over {call.bounds.max_body_bytes} bytes (MAX_BODY_BYTES) or "
        "1000 responses.",
        param=param,
    )


def _no_conversation(id: str) -> ItemNotFound:
    return ItemNotFound(f"Conversation with id '{id[:100]}' not found.", param="conversation")
