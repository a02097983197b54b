"""The served names in Anthropic's form, for clients that say `anthropic-version`."""

from __future__ import annotations

from datetime import UTC, datetime

from app.dialects.openai import models
from app.errors import InvalidRequest, ModelNotFound
from app.generation.model import ServedModel
from app.lifecycle import Lifecycle
from app.types import Json

_MOST = 1000


def listed(
    model: ServedModel | None, lifecycle: Lifecycle, *, limit: str | None, after: str | None
) -> Json:
    """The body of `/v1/models`. Raises InvalidRequest, Unavailable."""
    entries = [_entry(card) for card in models.cards(model, lifecycle)]
    ids = [entry["id"] for entry in entries]
    if after is not None and after in ids:
        entries = entries[ids.index(after) + 1 :]
    most = 20
    if limit is not None:
        if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:6]) <= _MOST:
            raise InvalidRequest(f"limit: Input should be between 1 and {_MOST}", param="limit")
        most = int(limit)
    shown = entries[:most]
    return {
        "data": shown,
        "has_more": len(entries) > len(shown),
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
    }


def card(name: str, model: ServedModel | None, lifecycle: Lifecycle) -> Json:
    """The body of `/v1/models/{name}`. Raises ModelNotFound, Unavailable."""
    try:
        return _entry(models.card(name, model, lifecycle))
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
