"""Responses that are kept: looked up, followed, cancelled, removed.

Source: OpenAI's OpenAPI document of 2026-08.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

import msgspec
import orjson

from app.dialects.contract import Ask, Call, Reply, Resource, Running, Stream, Whole
from app.dialects.openai.responses import kept_items, replay
from app.dialects.openai.responses.listing import AFTER, INCLUDE, LIMIT, ORDER, Paging, listed
from app.dialects.openai.responses.response import error_json
from app.errors import InternalError, InvalidRequest, ItemNotFound, RouteNotFound, ServeError
from app.store.records import RUNNING, Kept
from app.store.store import Store
from app.types import Json

_POLL_S = 0.5
_CANCELLED_WITHIN_S = 40.0
"""Longer than a claim lasts whose server has died."""
_DIED = "The server that generated this response has ended."


async def retrieve(ask: Ask) -> Reply:
    id = ask.ids["response_id"]
    run = ask.background.find(ask.owner, id)
    if _switch(ask, "stream"):
        after = _after(ask)
        if run is None or run.kept:
            await _kept(ask, id)
        if run is not None and run.streams:
            return Stream(followed(ask, run, id, after), cannot_be_followed)
        return Stream(_replayed(ask, id, after), cannot_be_followed)
    if run is not None and not (run.ended and run.kept):
        return Whole(run.now())
    return Whole((await _kept(ask, id)).body)


async def remove(ask: Ask) -> Reply:
    id = ask.ids["response_id"]
    if ask.store is None:
        raise _not_found(id)
    run = ask.background.find(ask.owner, id)
    if (run is not None and not run.ended) or (run is None and await ask.store.runs(ask.owner, id)):
        await ask.store.cancel(ask.owner, id)
        await _ended(ask, id)
    if not await ask.store.remove(ask.owner, id) and run is None:
        raise _not_found(id)
    ask.background.forget(ask.owner, id)
    return Whole(orjson.dumps({"id": id, "object": "response", "deleted": True}))


async def cancel(ask: Ask) -> Reply:
    id = ask.ids["response_id"]
    run = ask.background.find(ask.owner, id)
    if run is not None and not (run.ended and run.kept) and ask.store is not None:
        if not run.ended:
            await ask.store.cancel(ask.owner, id)
            await _ended(ask, id)
        return Whole((await _kept(ask, id)).body if run.kept else run.now())
    kept = await _kept(ask, id)
    if kept.status not in RUNNING:
        if not orjson.loads(kept.head + kept.tail).get("background"):
            raise InvalidRequest(
                "Only responses with 'background' set to true can be cancelled.",
                param="response_id",
            )
        return Whole(kept.body)
    assert ask.store is not None
    await ask.store.cancel(ask.owner, id)
    await _ended(ask, id)
    return Whole((await _kept(ask, id)).body)


async def _ended(ask: Ask, id: str) -> None:
    """Returns once it is not generated any more, here or at another server, or after a while."""
    assert ask.store is not None
    with suppress(TimeoutError):
        async with asyncio.timeout(_CANCELLED_WITHIN_S):
            if (run := ask.background.find(ask.owner, id)) is not None:
                await run.end()
            else:
                await _ended_elsewhere(ask.store, ask.owner, id)


async def _ended_elsewhere(store: Store, owner: str, id: str) -> None:
    """Another server's: only the database tells when it has ended."""
    while await store.runs(owner, id):  # noqa: ASYNC110
        await asyncio.sleep(_POLL_S)


async def input_items(ask: Ask) -> Reply:
    paging = Paging.of(ask)
    kept = await _kept(ask, ask.ids["response_id"])
    items = [kept_items.shown(item) for item in orjson.loads(b"[%b]" % kept.input)]
    if paging.newest_first:
        items.reverse()
    if paging.after is not None:
        ids = [item["id"] for item in items]
        if paging.after not in ids:
            raise ItemNotFound(f"Item with id '{paging.after[:100]}' not found.", param="after")
        items = items[ids.index(paging.after) + 1 :]
    return listed(items[: paging.limit], more=len(items) > paging.limit)


async def compact(ask: Ask) -> Reply:
    """Else it would look like the id of a response."""
    raise RouteNotFound("Conversations are not compacted here; a client does it by itself.")


async def _kept(ask: Ask | Call, id: str) -> Kept:
    """Raises ItemNotFound, StoreUnavailable."""
    kept = None if ask.store is None else await ask.store.get(ask.owner, id)
    if kept is None:
        raise _not_found(id)
    if kept.status == "dead":
        assert ask.store is not None
        kept = _failed(kept)
        if not await ask.store.fail(ask.owner, kept):  # it has ended meanwhile
            return await _kept(ask, id)
    return kept


def _failed(kept: Kept) -> Kept:
    body: Json = orjson.loads(kept.head + kept.tail)
    body |= {"status": "failed", "error": error_json(InternalError(_DIED))}
    return _with(body, kept.output, kept)


def _with(body: Json, output: bytes, kept: Kept) -> Kept:
    """`kept`, with this in its place."""
    head, _, tail = orjson.dumps(body | {"output": []}).partition(b'"output":[')
    return msgspec.structs.replace(
        kept, status=body["status"], head=head + b'"output":[', output=output, tail=tail
    )


async def followed(
    ask: Ask | Call, run: Running, id: str, after: int
) -> AsyncGenerator[bytes, None]:
    """The events after this number as they come; if they become too many, the last at the end."""
    async with aclosing(run.follow(after)) as frames:
        async for some in frames:
            after += some.count(b"\n\n")
            yield some
    if not run.streams:
        async with aclosing(_replayed(ask, id, after)) as frames:
            async for some in frames:
                yield some


async def _replayed(ask: Ask | Call, id: str, after: int) -> AsyncGenerator[bytes, None]:
    run = None if ask.background is None else ask.background.find(ask.owner, id)
    if run is not None:
        await run.end()
        if not run.kept:
            yield replay.events(_only_here(run), after=after)
            return
    assert ask.store is not None
    await _ended_elsewhere(ask.store, ask.owner, id)
    yield replay.events(await _kept(ask, id), after=after)


def _only_here(run: Running) -> Kept:
    """A response that has ended, and that the store does not have."""
    body: Json = orjson.loads(run.now())
    output = orjson.dumps(body["output"])[1:-1]
    return _with(body, output, Kept(id=body["id"], status=body["status"]))


def _after(ask: Ask) -> int:
    given = ask.query.get("starting_after")
    if given is None:
        return -1
    if not given.isascii() or not given.isdigit() or len(given) > 12:
        raise InvalidRequest(
            "Invalid value for 'starting_after': must be a sequence number.",
            param="starting_after",
        )
    return int(given)


def _switch(ask: Ask, name: str) -> bool:
    given = ask.query.get(name, "false").lower()
    if given not in ("true", "false", "1", "0"):
        raise InvalidRequest(f"Invalid value for '{name}': must be true or false.", param=name)
    return given in ("true", "1")


def cannot_be_followed(error: ServeError) -> bytes:
    """The response itself may go on: only this stream of it has failed."""
    details = error_json(error)
    event: dict[str, Any] = {
        "type": "error",
        "sequence_number": 0,
        "code": details["code"],
        "message": details["message"],
        "param": details["param"],
        "error": details,
    }
    return b"event: error\ndata: %b\n\n" % orjson.dumps(event)


def _not_found(id: str) -> ItemNotFound:
    return ItemNotFound(f"Response with id '{id[:100]}' not found.", param="response_id")


RESOURCES = (
    Resource(
        method="GET",
        path="/v1/responses/{response_id}",
        summary="A response that was kept, or its events once more",
        answer=retrieve,
        query={
            "stream": {
                "type": "boolean",
                "description": "Send the response's events instead of its JSON. Default: false.",
            },
            "starting_after": {
                "type": "integer",
                "minimum": 0,
                "description": "Number of the event that the events begin after, with "
                "`stream=true`. Default: all of them.",
            },
            "include": INCLUDE,
        },
    ),
    Resource(
        method="DELETE",
        path="/v1/responses/{response_id}",
        summary="Remove a response",
        answer=remove,
    ),
    Resource(
        method="POST",
        path="/v1/responses/{response_id}/cancel",
        summary="End a response that is generated in the background",
        answer=cancel,
    ),
    Resource(
        method="POST",
        path="/v1/responses/compact",
        summary="Not served",
        answer=compact,
    ),
    Resource(
        method="GET",
        path="/v1/responses/{response_id}/input_items",
        summary="What a response answers",
        answer=input_items,
        query={"limit": LIMIT, "order": ORDER, "after": AFTER, "include": INCLUDE},
    ),
)
