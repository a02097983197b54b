"""Routes to what is kept: they generate nothing, take no place, and bring no model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress

from fastapi import FastAPI, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from app.dialects.contract import Resource, Stream, Whole
from app.dialects.routes import RESOURCES
from app.errors import ClientGone, ServeError
from app.gate import Gate
from app.types import Json
from app.web.answers import STORE_FAILS, error_answers
from app.web.bodies import read_body
from app.web.state import serving_of

CARRIED_BYTES = 1_000_000
"""Of a stream's frames that may wait for the client."""


def add_to(app: FastAPI) -> None:
    for resource in RESOURCES:
        app.add_api_route(
            resource.path,
            _endpoint(resource),
            methods=[resource.method],
            summary=resource.summary,
            name=resource.answer.__name__,
            response_class=Response,
            openapi_extra=_described(resource),
        )


def _endpoint(resource: Resource) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        serving = serving_of(request)
        raw = b""
        if resource.body is not None:
            async with serving.gate.admit(*names_of(request.scope)) as ticket:
                raw = await read_body(
                    request.headers,
                    request.receive,
                    serving.settings,
                    serving.most_body_bytes,
                    arrived=ticket.grow,
                )
        reply = await serving.answering.look_up(
            resource,
            ids=request.path_params,
            query=dict(request.query_params),
            raw=raw,
            owner=request.scope["state"]["owner"],
        )
        if isinstance(reply, Whole):
            content = b"".join([reply.body, *reply.more])
            whole = Response(content, media_type="application/json")
            return Carried(whole, len(content), serving.gate, ends=True)
        response = StreamingResponse(_beating(reply, serving.settings.heartbeat_s))
        response.raw_headers = list(reply.headers)
        return Carried(response, CARRIED_BYTES, serving.gate, ends=False)

    return answer


class Carried(Response):
    """Another response, counted until its client has read it: it may have megabytes."""

    def __init__(self, response: Response, size_bytes: int, gate: Gate, *, ends: bool) -> None:
        """`ends`: False: it may follow what another server generates, for hours."""
        super().__init__()
        self._response, self._size_bytes, self._gate = response, size_bytes, gate
        self._waited_for = ends

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._gate.carrying(self._size_bytes, waited_for=self._waited_for):
            await self._response(scope, receive, send)
            try:
                await scope["state"]["connection"].sent()
            except ClientGone as gone:
                scope["state"]["ended_by"] = gone.code
                scope["state"]["status"] = gone.status


def names_of(scope: Scope) -> set[str]:
    return {scope["state"]["engine_id"], scope["state"]["request_id"]}


async def _beating(stream: Stream, heartbeat_s: float) -> AsyncGenerator[bytes, None]:
    """The frames, and heartbeats while there are none."""
    async with aclosing(stream.frames) as frames:
        following = asyncio.ensure_future(anext(frames, None))
        try:
            while True:
                await asyncio.wait({following}, timeout=heartbeat_s)
                if not following.done():
                    yield stream.heartbeat()
                    continue
                try:
                    frame = following.result()
                except ServeError as error:
                    yield stream.fail(error)
                    return
                if frame is None:
                    return
                yield frame
                following = asyncio.ensure_future(anext(frames, None))
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError, ServeError):
                await following


def _described(resource: Resource) -> Json:
    names = [part[1:-1] for part in resource.path.split("/") if part.startswith("{")]
    ids = {name: f"Id of the {name.removesuffix('_id')}." for name in names}
    parameters = [
        *(_parameter(each, "path", {"type": "string", "description": ids[each]}) for each in ids),
        *(_parameter(each, "query", schema) for each, schema in resource.query.items()),
    ]
    described: Json = {
        "parameters": parameters,
        "responses": {"200": {"description": "The answer."}, **error_answers(STORE_FAILS)},
    }
    if resource.body is not None:
        ref = {"$ref": f"#/components/schemas/{resource.body.__name__}"}
        content = {"schema": ref, "example": resource.example}
        described["requestBody"] = {"content": {"application/json": content}}
    return described


def _parameter(name: str, place: str, schema: Json) -> Json:
    """Swagger shows the description of the parameter, and not that of its schema."""
    schema = dict(schema)
    return {
        "name": name,
        "in": place,
        "required": place == "path",
        "description": schema.pop("description"),
        "schema": schema,
    }
