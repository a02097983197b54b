"""The served names in Anthropic's form, for clients that say `anthropic-version`."""

from __future__ import annotations

from datetime import UTC, datetime

from app.dialects.openai import models
from app.errors import InvalidRequest, ModelNotFound
from app.generation.model import ServedModel
from app.lifecycle import Lifecycle
from app.types import Json

_MOST = 1000


async def listed(
    model: ServedModel | None,
    lifecycle: Lifecycle,
    *,
    limit: str | None,
    after: str | None,
    before: str | None,
) -> Json:
    """The body of `/v1/models`; the rest is its query. Raises InvalidRequest, Unavailable."""
    entries = [_entry(card) for card in await models.cards(model, lifecycle)]
    ids = [entry["id"] for entry in entries]
    first, end = 0, len(entries)
    for name, id in (("after_id", after), ("before_id", before)):
        if id is None:
            continue
        if id not in ids:
            raise InvalidRequest("there is no such model", param=name)
        if name == "after_id":
            first = ids.index(id) + 1
        else:
            end = ids.index(id)
    most = _count(limit)
    shown = entries[max(first, end - most) : end] if before else entries[first:end][:most]
    return {
        "data": shown,
        "has_more": max(0, end - first) > len(shown),
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
    }


def _count(limit: str | None) -> int:
    if limit is None:
        return 20
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 4 and 1 <= int(limit) <= _MOST):
        raise InvalidRequest(f"Input should be between 1 and {_MOST}", param="limit")
    return int(limit)


async def card(name: str, model: ServedModel | None, lifecycle: Lifecycle) -> Json:
    """The body of `/v1/models/{name}`. Raises ModelNotFound, Unavailable."""
    try:
        return _entry(await models.card(name, model, lifecycle))
    except ModelNotFound as error:
        raise ModelNotFound(f"model: {name[:64]}", param="model") from error


def _entry(card: Json) -> Json:
    created = datetime.fromtimestamp(card["created"], UTC)
    return {
        "type": "model",
        "id": card["id"],
        "display_name": card["id"],
        "created_at": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "max_input_tokens": card["max_model_len"],
        "max_tokens": card["max_model_len"],
        "capabilities": None,
        "lifecycle": "active",
        "line": None,
        "deprecated_at": None,
        "retires_at": None,
    }
