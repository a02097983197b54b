"""Pages of items, as OpenAI lists them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import msgspec
import orjson

from app.dialects.contract import Ask, Whole
from app.errors import InvalidRequest
from app.types import Json

_MOST = 100
LIMIT: Json = {
    "type": "integer",
    "minimum": 1,
    "maximum": _MOST,
    "default": 20,
    "description": "Most entries of the page.",
}
ORDER: Json = {
    "type": "string",
    "enum": ["asc", "desc"],
    "default": "desc",
    "description": "`asc`: oldest first; `desc`: newest first.",
}
AFTER: Json = {"type": "string", "description": "Id of the entry that the page begins after."}
INCLUDE: Json = {"type": "string", "description": "Without effect: entries are whole."}


class Paging(msgspec.Struct, frozen=True):
    """Which part of a list is asked for."""

    limit: int
    newest_first: bool
    after: str | None

    @classmethod
    def of(cls, ask: Ask) -> Self:
        """Raises InvalidRequest."""
        limit = ask.query.get("limit", "20")
        if not (
            len(limit) <= 3 and limit.isascii() and limit.isdigit() and 1 <= int(limit) <= _MOST
        ):
            raise InvalidRequest(
                f"Invalid value for 'limit': must be from 1 to {_MOST}.", param="limit"
            )
        order = ask.query.get("order", "desc")
        if order not in ("asc", "desc"):
            raise InvalidRequest("Invalid value for 'order': must be asc or desc.", param="order")
        if ask.query.get("before"):
            raise InvalidRequest(
                "'before' is not supported; please use 'after' with the other 'order'.",
                param="before",
            )
        return cls(int(limit), order == "desc", ask.query.get("after") or None)


def listed(items: Sequence[Json], *, more: bool) -> Whole:
    return Whole(
        orjson.dumps(
            {
                "object": "list",
                "data": items,
                "first_id": items[0]["id"] if items else None,
                "last_id": items[-1]["id"] if items else None,
                "has_more": more,
            }
        )
    )
