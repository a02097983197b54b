"""The application: a table of contents."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from app import __version__
from app.dialects.routes import DIALECTS
from app.errors import InternalError, InvalidRequest, MethodNotAllowed, RouteNotFound, ServeError
from app.settings.catalogue import Settings
from app.types import Json
from app.web import admin, files, openapi, probes, resources, sglang_routes
from app.web.generation import Generation
from app.web.middleware import Authentication, HealthPort, RequestScope, Shortcut, Traced
from app.web.page import routes as page
from app.web.page.sampler import Sampler
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
    if serving.tracing is not None:
        app = Traced(app, serving.tracing)
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
    traced = serving.tracing is not None
    return RequestScope(app, settings, serving.recent_errors, traced=traced)


def description(settings: Settings) -> Json:
    """The OpenAPI document of a server with these settings, which need not run."""
    return openapi.document(_routes(settings), settings)


def _api(serving: Serving) -> FastAPI:
    """The other routes, and the description of all routes."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        serving.host.start()
        yield
        await serving.host.close()
        serving.recent_errors.close()

    app = _routes(serving.settings, lifespan)
    app.state.serving = serving
    app.state.sampler = Sampler(serving)
    return app


def _routes(
    settings: Settings,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
) -> FastAPI:
    app = FastAPI(
        title=openapi.TITLE,
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
        docs_url=None,
        redoc_url=None,
    )
    for dialect in DIALECTS:
        openapi.describe(app, dialect)
    resources.add_to(app)
    files.add_to(app)
    routers = [probes.router, sglang_routes.router, page.router]
    if settings.ui:
        routers.append(page.page_router)
    if settings.admin_api_key:
        routers.append(admin.router)
    every_route = [*app.routes, *(route for router in routers for route in router.routes)]
    taken = {getattr(route, "path", "") for route in every_route}
    for router in routers:
        app.include_router(router)
    probes.add_health_path(app, settings.health_path, taken)
    app.openapi = cache(lambda: openapi.document(app, settings))  # type: ignore[method-assign]
    return app


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
        case 404 if page.leads_to_page(request):
            return page.to_page(request)
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
