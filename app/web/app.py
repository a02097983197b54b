"""The application: a table of contents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from app import __version__
from app.dialects.contract import Dialect
from app.dialects.routes import DIALECTS, RESOURCES
from app.engine.base import Launched, Starting
from app.errors import InternalError, InvalidRequest, MethodNotAllowed, RouteNotFound, ServeError
from app.life.control import LocalControl
from app.life.service import Service
from app.settings.bounds import Bounds
from app.settings.catalogue import Settings
from app.types import Json
from app.web import admin, files, probes, resources, sglang_routes
from app.web.generation import Generation
from app.web.middleware import Authentication, HealthPort, RequestScope, Shortcut
from app.web.responses import error_response
from app.web.state import Serving

_EXPOSED_HEADERS = [
    "x-request-id",
    "request-id",
    "x-process-time",
    "server-timing",
    "x-prompt-cache",
    "x-hathora-region",
    "retry-after",
    "x-should-retry",
]


def create_app(serving: Serving) -> ASGIApp:
    """The whole ASGI application. Its lifespan starts and ends the engine.

    Requests that generate bypass FastAPI: its layers would cost a request as much as the validation
    of its body.
    """
    settings = serving.settings
    app: ASGIApp = Shortcut(_api(serving), {d.path: Generation(d, serving) for d in DIALECTS})
    if settings.api_key:
        app = Authentication(app, settings)
    if settings.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=_EXPOSED_HEADERS,
        )
    if settings.health_port is not None:
        app = HealthPort(app, settings)
    return RequestScope(app, settings, serving.tracing)


def _api(serving: Serving) -> FastAPI:
    """The other routes, and the description of all routes."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        serving.host.start()
        yield
        await serving.host.close()

    app = FastAPI(
        title="SGLang Hathora Server",
        version=__version__,
        lifespan=lifespan,
        exception_handlers={
            ServeError: _serve_error,
            HTTPException: _http_error,
            Exception: _unexpected_error,
        },
        redirect_slashes=False,
        # Under a provider of SGLang's (ENGINE_ARGS: enable_trace) FastAPI would trace each probe.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        redoc_url=None,
    )
    app.state.serving = serving
    for dialect in DIALECTS:
        _describe(app, dialect)
    resources.add_to(app)
    files.add_to(app)
    routers = [probes.router, sglang_routes.router]
    if serving.settings.admin_api_key:
        routers.append(admin.router)
    every_route = [*app.routes, *(route for router in routers for route in router.routes)]
    taken = {getattr(route, "path", "") for route in every_route}
    for router in routers:
        app.include_router(router)
    probes.add_health_path(app, serving.settings.health_path, taken)
    app.openapi = lambda: _openapi(app, serving)  # type: ignore[method-assign]
    return app


def _describe(app: FastAPI, dialect: Dialect[Any]) -> None:
    """Add a route that describes a dialect and refuses other methods; `Shortcut` answers POST."""

    async def generate() -> Response:
        raise AssertionError("Shortcut answers this")

    app.add_api_route(
        dialect.path,
        generate,
        methods=["POST"],
        summary=dialect.summary,
        name=dialect.body.__name__,
        response_class=Response,
        openapi_extra=_request_body(dialect),
    )


def _request_body(dialect: Dialect[Any]) -> Json:
    ref = {"$ref": f"#/components/schemas/{dialect.body.__name__}"}
    content = {"application/json": {"schema": ref, "example": dialect.example}}
    streams = "stream" in dialect.body.model_fields
    answer = "The answer; server-sent events if `stream` is true." if streams else "The answer."
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        "requestBody": {"required": True, "content": content},
        "responses": {
            "200": {"description": answer},
            "4XX": {"description": "The request is at fault.", "content": error},
            "5XX": {"description": "The server is at fault, or busy.", "content": error},
        },
    }


_ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "code": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            },
        }
    },
}


_KEYWORDS = {"integer": "maximum", "array": "maxItems", "object": "maxProperties"}
"""JSON type -> the keyword of JSON Schema that bounds it."""


def _add_bounds(schema: Json, bounds: Bounds) -> None:
    """Add the operator's bounds, which the bodies' classes do not know."""
    for field, most in bounds.by_request_field().items():
        described = schema.get("properties", {}).get(field, {})
        kinds = [described, *described.get("anyOf", ())]
        kinds += [inner for kind in kinds[1:] for inner in kind.get("anyOf", ())]
        for kind in kinds:
            if keyword := _KEYWORDS.get(kind.get("type")):
                kind[keyword] = most


def _openapi(app: FastAPI, serving: Serving) -> Json:
    """FastAPI's document, with the bodies that the dialects read without FastAPI."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas["Error"] = _ERROR
        bodies = [dialect.body for dialect in DIALECTS]
        bodies += [resource.body for resource in RESOURCES if resource.body is not None]
        for body in bodies:
            schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
            _add_bounds(schema, serving.bounds)
            schemas |= schema.pop("$defs", {})
            schemas[body.__name__] = schema
        app.openapi_schema = document
    return app.openapi_schema


def document(settings: Settings) -> Json:
    """What a server with these settings serves at /openapi.json; nothing is started for it."""

    async def launch(_: Starting) -> Launched:
        raise AssertionError("nothing is launched for a description")

    nowhere = settings.model_copy(update={"store_url": "off", "file_storage_path": None})
    service = Service(nowhere, launch, LocalControl(nowhere, lambda: None), lambda: None)
    api = _api(Serving.of(service, None))
    document: Json = api.openapi()
    return document


async def _serve_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServeError)
    return error_response(error, request.scope)


async def _unexpected_error(request: Request, _: Exception) -> Response:
    """Starlette raises the error again after this answer, and RequestScope logs it."""
    return error_response(InternalError("The server failed on this request."), request.scope)


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors (no such path, wrong method), in the format of the path's vendor."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:100]
    translated: ServeError
    match error.status_code:
        case 404:
            translated = RouteNotFound(f"There is no {request.method} {path} here.")
        case 405 if request.headers.get("upgrade", "").lower() == "websocket":
            # Codex asks so for a connection, and after 404 it goes on without one.
            translated = RouteNotFound(f"There is no websocket at {path}.")
        case 405:
            translated = MethodNotAllowed(f"{path} does not answer {request.method}.")
        case _:
            translated = InvalidRequest(str(error.detail)[:200])
    response = error_response(translated, request.scope)
    response.headers.update(error.headers or {})
    return response
