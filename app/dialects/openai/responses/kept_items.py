"""Items as they are kept: with an id each, by which clients refer to them.

    msg_<the response's 32 digits><place: 4 digits>      of its output
    msg_<the response's 32 digits>i<place: 4 digits>     of its input

So an item is found by its response alone. What clients chose themselves is no key of anything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson
from pydantic import TypeAdapter, ValidationError

from app.dialects.openai.responses.items import (
    AnyItem,
    ClientCallItem,
    ClientResultItem,
    CustomCallItem,
    FilePart,
    FunctionCallItem,
    IgnoredItem,
    Item,
    MessageItem,
    Part,
    PicturePart,
    ReasoningItem,
    ResultItem,
    ServedCallItem,
    ToolsItem,
)
from app.errors import InvalidRequest
from app.store import records
from app.types import Json

_PREFIXES: dict[type, str] = {
    MessageItem: "msg",
    ReasoningItem: "rs",
    FunctionCallItem: "fc",
    CustomCallItem: "ctc",
    ResultItem: "fco",
    ClientCallItem: "cc",
    ClientResultItem: "cco",
    ServedCallItem: "mcp",
    ToolsItem: "tools",
    IgnoredItem: "item",
}
_ITEMS: TypeAdapter[Any] = TypeAdapter(list[AnyItem])
_ID = re.compile(r"[a-z]+_([0-9a-f]{32})(i?)[0-9a-f]{4}")


class Place(NamedTuple):
    """Where an item is kept."""

    response: str
    of_input: bool


def place_of(id: str) -> Place | None:
    """By the id of an item; None: it is none of ours."""
    matched = _ID.fullmatch(id)
    if matched is None:
        return None
    return Place(f"resp_{matched[1]}", bool(matched[2]))


def read(joined: bytes) -> list[Item]:
    """Items that are kept, with commas between them. Raises InvalidRequest."""
    try:
        items: list[Item] = _ITEMS.validate_json(b"[%b]" % joined)
    except ValidationError:
        raise InvalidRequest(
            "What this refers to was kept by another release of this server, and cannot be read."
        ) from None
    return items


def written(items: Sequence[Item], owner: str, *, anew: bool = False) -> list[records.Item]:
    """`owner`: the digits of the response that they are the input of. `anew`: all get a new id;
    else those keep theirs that are this server's own."""
    kept: list[records.Item] = []
    ids: set[str] = set()
    calls = {item.id: item.call_id for item in items if isinstance(item, ClientCallItem)}
    for no, item in enumerate(items):
        if isinstance(item, ClientResultItem) and item.call_id is None:
            # It names the item of its call, which gets another id here.
            item = item.model_copy(update={"call_id": calls.get(item.id, item.id)})
        id = getattr(item, "id", None)
        if anew or id is None or id in ids or place_of(id) is None:
            id = f"{_PREFIXES[type(item)]}_{owner}i{no:04x}"
        ids.add(id)
        kept.append(_written(item, id))
    return kept


def _written(item: Item, id: str) -> records.Item:
    json = item.model_dump(exclude_none=True, by_alias=True) | {"id": id}
    if isinstance(item, MessageItem):
        json |= {
            "type": "message",
            "status": "completed",
            "content": _parts(item.content or "", by_model=item.role == "assistant"),
        }
    return records.Item(id, orjson.dumps(json))


def shown(item: Json) -> Json:
    """As clients see it: without thinking that is hidden from them."""
    if item.pop("hidden", None):
        item.pop("content", None)
    return item


def _parts(content: str | Sequence[Part | PicturePart | FilePart], *, by_model: bool) -> list[Json]:
    parts = [content] if isinstance(content, str) else content
    return [_part(part, by_model=by_model) for part in parts]


def _part(part: str | Part | PicturePart | FilePart, *, by_model: bool) -> Json:
    if isinstance(part, FilePart):
        return part.model_dump(exclude_none=True)
    if isinstance(part, PicturePart):
        return part.model_dump(exclude_none=True) | {"detail": part.detail or "auto"}
    text = part if isinstance(part, str) else part.text
    if by_model:
        return {"type": "output_text", "text": text, "annotations": []}
    return {"type": "input_text", "text": text}


def joined(items: Sequence[records.Item]) -> bytes:
    return b",".join([item.body for item in items])
