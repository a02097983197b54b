"""The page at `/`, what it watches the server by, and `/docs`: all of them without the internet."""

from __future__ import annotations

from contextlib import aclosing

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from app.dialects.contract import EVENT_STREAM
from app.web.page import files
from app.web.page.paths import BASE, DOCS, EVENTS, FILES_ROUTE, ICON
from app.web.page.sampler import Sampler
from app.web.state import serving_of

router = APIRouter(include_in_schema=False)
"""Of `/docs`, which there always is."""
page_router = APIRouter(include_in_schema=False)
"""With UI only."""


@router.get(DOCS)
async def docs(request: Request) -> Response:
    if above := _above(request):  # there the document's relative addresses would lead nowhere
        return RedirectResponse(above + DOCS[1:], 308)
    with_page = serving_of(request).settings.ui
    return files.document(files.DESCRIPTION if with_page else files.ALONE, request)


@router.get(ICON)
async def icon(request: Request) -> Response:
    return files.icon(request)


@router.get(FILES_ROUTE)
async def asset(request: Request, folder: str, name: str) -> Response:
    return files.asset(folder, name, request)


@page_router.get(EVENTS)
async def events(request: Request) -> Response:
    """Server-sent events: `about`, `past`, then `sample` each second."""
    return _Watching(request.app.state.sampler)


def wants_page(request: Request) -> bool:
    """It is a browser that opens `/`, and no client that takes anything."""
    return "text/html" in request.headers.get("accept", "")


def leads_to_page(request: Request) -> bool:
    is_base = request.url.path == BASE and request.method in ("GET", "HEAD")
    return is_base and serving_of(request).settings.ui and wants_page(request)


def to_page(request: Request) -> Response:
    return RedirectResponse(_above(request) or "./")


def _above(request: Request) -> str:
    """The way from below a path to it: `/docs/` is answered, too."""
    asked: bytes = request.scope["raw_path"]
    return "../" * (len(asked) - len(asked.rstrip(b"/")))


def page(request: Request) -> Response:
    return files.document("index.html", request, vary="accept")


class _Watching(Response):
    def __init__(self, sampler: Sampler) -> None:
        super().__init__()
        self._sampler = sampler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["state"]["head_only"]:
            head = Response()
            head.raw_headers = list(EVENT_STREAM)
            await head(scope, receive, send)
            return
        with self._sampler.watched():
            async with aclosing(self._sampler.frames()) as frames:
                response = StreamingResponse(frames)
                response.raw_headers = [*EVENT_STREAM, (b"x-content-type-options", b"nosniff")]
                await response(scope, receive, send)
