"""OpenAI's Files API: what clients have uploaded, listed, shown and deleted.

An upload, and what a file holds, are not JSON: web/files.py has them.

Source: https://platform.openai.com/docs/api-reference/files, read 2026-11.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
import orjson

from app.dialects.contract import Ask, Call, Reply, Resource, Whole
from app.dialects.openai.responses.listing import AFTER, LIMIT, ORDER, Paging, listed
from app.errors import InvalidRequest, ItemNotFound, RouteNotFound
from app.files.files import Files
from app.store.records import StoredFile
from app.types import Json

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
LASTS_S = (3600, 2_592_000)
"""What a client may ask for: an hour to 30 days."""
MOST_NAME_CHARS = 255
_MOST_LISTED = 10_000
_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Also what would turn the direction of the text around it."""


class NewFile(msgspec.Struct, frozen=True):
    """What is said of a file that is uploaded."""

    filename: str
    purpose: str
    lasts_s: float | None

    @classmethod
    def of(cls, fields: Mapping[str, str], filename: str) -> NewFile:
        """`fields`: of the form. Raises InvalidRequest."""
        name = checked_name(filename, param="file")
        return cls(name, _purpose(fields.get("purpose")), _lasts_s(fields))


def checked_name(filename: str, *, param: str) -> str:
    """A name to show: its last part, if it is a path. Raises InvalidRequest."""
    name = _CONTROL.sub("", re.split(r"[/\\]", filename)[-1]).strip()
    if not name or len(name) > MOST_NAME_CHARS:
        raise InvalidRequest(
            f"Invalid value for '{param}': a file's name must have from 1 to {MOST_NAME_CHARS} "
            "characters.",
            param=param,
        )
    return name


def _purpose(purpose: str | None) -> str:
    if purpose is None:
        raise InvalidRequest(
            "Missing required parameter: 'purpose'.",
            param="purpose",
            code="missing_required_parameter",
        )
    return known_purpose(purpose)


def known_purpose(purpose: str) -> str:
    """Raises InvalidRequest."""
    if purpose not in PURPOSES:
        raise InvalidRequest(
            f"Invalid value for 'purpose': must be one of {', '.join(PURPOSES)}.", param="purpose"
        )
    return purpose


def _lasts_s(fields: Mapping[str, str]) -> float | None:
    anchor, seconds = fields.get(_ANCHOR), fields.get(_SECONDS)
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidRequest(
            f"Invalid value for '{_ANCHOR}': must be created_at.", param="expires_after.anchor"
        )
    least, most = LASTS_S
    if seconds is None or not _is_between(seconds, least, most):
        raise InvalidRequest(
            f"Invalid value for '{_SECONDS}': must be from {least} to {most}.",
            param="expires_after.seconds",
        )
    return float(seconds)


def _is_between(number: str, least: int, most: int) -> bool:
    plain = len(number) <= len(str(most)) and number.isascii() and number.isdigit()
    return plain and least <= int(number) <= most


def file_json(file: StoredFile) -> Json:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": int(file.created),
        "expires_at": None if file.expires is None else int(file.expires),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


async def list_files(ask: Ask) -> Reply:
    files = kept_by(ask)
    query = dict(ask.query)
    limit = query.pop("limit", str(_MOST_LISTED))
    if not _is_between(limit, 1, _MOST_LISTED):
        raise InvalidRequest(
            f"Invalid value for 'limit': must be from 1 to {_MOST_LISTED}.", param="limit"
        )
    paging = Paging.of(msgspec.structs.replace(ask, query=query))
    purpose = query.get("purpose") or None
    page = await files.page(
        ask.owner,
        after=paging.after,
        limit=int(limit),
        newest_first=paging.newest_first,
        purpose=None if purpose is None else known_purpose(purpose),
    )
    if page is None:
        raise not_found(str(paging.after), param="after")
    return listed([file_json(file) for file in page.files], more=page.more)


async def retrieve(ask: Ask) -> Reply:
    return Whole(orjson.dumps(file_json(await existing(kept_by(ask), ask.owner, _id(ask)))))


async def remove(ask: Ask) -> Reply:
    id = _id(ask)
    if not await kept_by(ask).remove(ask.owner, id):
        raise not_found(id)
    return Whole(orjson.dumps({"id": id, "object": "file", "deleted": True}))


async def existing(files: Files, owner: str, id: str, *, param: str = "file_id") -> StoredFile:
    """Raises ItemNotFound, StoreUnavailable."""
    file = await files.find(owner, id)
    if file is None:
        raise not_found(id, param=param)
    return file


def kept_by(server: Ask | Call | Any) -> Files:
    """Raises RouteNotFound if it keeps none."""
    files: Files | None = server.files
    if files is None:
        raise RouteNotFound(
            "This server keeps no files: its operator has not set FILE_STORAGE_PATH."
        )
    return files


def not_found(id: str, *, param: str = "file_id") -> ItemNotFound:
    return ItemNotFound(f"File with id '{id[:100]}' not found.", param=param)


def _id(ask: Ask) -> str:
    return ask.ids["file_id"]


_ONE = "/v1/files/{file_id}"
RESOURCES = (
    Resource(
        method="GET",
        path="/v1/files",
        summary="The files that were uploaded",
        answer=list_files,
        query={
            "limit": LIMIT | {"maximum": _MOST_LISTED, "default": _MOST_LISTED},
            "order": ORDER,
            "after": AFTER,
            "purpose": {"type": "string", "enum": list(PURPOSES),
                        "description": "List only the files that were uploaded for this."},
        },
    ),
    Resource(method="GET", path=_ONE, summary="A file, without what it holds", answer=retrieve),
    Resource(method="DELETE", path=_ONE, summary="Delete a file", answer=remove),
)  # fmt: skip
