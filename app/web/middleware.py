"""Pure ASGI middleware, around every request.

RequestScope ─ (HealthPort) ─ (CORS) ─ (Authentication) ─ (Traced) ─ Shortcut ─┬─ dialects
                                                                               └─ FastAPI's routes
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import time
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import metrics
from app.dialects.error_forms import answer_headers
from app.errors import AuthenticationFailed, InternalError, RouteNotFound
from app.logs import setup as logs
from app.logs.setup import log
from app.recent_errors import RecentErrors
from app.settings.catalogue import Settings
from app.settings.declare import Secrets
from app.stats import RequestStats, milliseconds
from app.tracing.spans import OPERATIONS, Ending, Tracing
from app.web.page.paths import BASE, EVENTS, FILES_ROUTE, ICON, OPEN_PREFIX
from app.web.responses import error_response

_WELL_FORMED_ID = re.compile(r"^[A-Za-z0-9._-]{1,128}$")
_LOGGED_PATH = 200
"""Characters of a path in a log line: a head may have 16 KB."""
_HEALTH = frozenset({"/health", "/livez", "/readyz", "/ping"})
"""Routes that a load balancer or an orchestrator asks."""
_PROBES = frozenset({*_HEALTH, "/metrics", EVENTS, ICON, FILES_ROUTE})
"""They are too frequent for lines in the log, or last as long as somebody looks."""
_BEGIN = slice(len(OPEN_PREFIX))
"""Of a path, to compare with OPEN_PREFIX: `startswith` would be a call for each request."""


class RequestScope:
    """Gives a request its id, its headers, its two log lines and its metrics.

    `scope["state"]` carries: `engine_id`, the id inside the engine; `request_id`, the client's or
    the same; `owner`, as of a dialect's `Call`; `stats`; `log_fields`, which a dialect adds to the
    end line; `send`, the server's own; `head_only`: the answer's body is left out; and, once they
    are known, `route`, `status`, `ended_by`, `error`, `error_code` and `span`. The server has added
    `connection`.
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, errors: RecentErrors, *, traced: bool
    ) -> None:
        """`traced`: requests have spans, which `Traced` begins."""
        self._app = app
        self._server_timing = settings.server_timing
        self._timed = settings.server_timing or traced
        self._region = settings.hathora_region.encode()
        self._quiet = _PROBES | {settings.health_path}
        self._errors = errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        arrived = time.perf_counter()
        # HEAD is answered as GET; the server omits the body.
        head_only, path = scope["method"] == "HEAD", _normalised(scope["path"])
        method = "GET" if head_only else scope["method"]
        scope = {**scope, "method": method, "path": path}
        engine_id = os.urandom(16).hex()
        headers = Headers(scope=scope)
        client_id = headers.get("x-request-id", "")
        request_id = client_id if _WELL_FORMED_ID.match(client_id) else engine_id
        explains = headers.get("x-explain-cache") in ("1", "true")
        state: dict[str, Any] = scope.setdefault("state", {})
        state |= {
            "engine_id": engine_id,
            "request_id": request_id,
            "owner": "",
            "stats": RequestStats(self._timed),
            "log_fields": {},
            "status": 0,
            "send": send,
            "head_only": head_only,
        }
        client = scope["client"][0] if scope.get("client") else None
        write_line = log.debug if path in self._quiet or path[_BEGIN] == OPEN_PREFIX else log.info
        token = logs.request_id.set(request_id)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                state["status"] = message["status"]
                took_s = time.perf_counter() - arrived
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                    (b"x-hathora-region", self._region),
                    (b"x-process-time", b"%.1f" % (took_s * 1e3)),
                ]
                if explains or self._server_timing:
                    message["headers"] += self._explained(state["stats"], took_s, cache=explains)
                if message["status"] < 400:
                    message["headers"] += answer_headers(
                        path, request_id, anthropics="anthropic-version" in headers
                    )
            await send(message)

        write_line("request started", client=client, method=method, path=path[:_LOGGED_PATH])
        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:  # nothing outside this one would answer in the vendor's format
            log.exception("request failed")
            if not state["status"]:
                await _failed(scope)(scope, receive, send_with_headers)
        finally:
            self._finish(scope, arrived, client, write_line)
            logs.request_id.reset(token)
            # Break the reference cycle through `send`, so that it is freed without a GC pass.
            state.clear()

    def _explained(
        self, stats: RequestStats, took_s: float, *, cache: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        """Headers that not every answer has."""
        if self._server_timing:
            yield b"server-timing", stats.server_timing(took_s)
        if cache and stats.prompt_tokens is not None:
            yield b"x-prompt-cache", stats.cache_header()

    def _finish(self, scope: Scope, arrived: float, client: str | None, write_line: Any) -> None:
        state = scope["state"]
        duration_s = time.perf_counter() - arrived
        stats: RequestStats = state["stats"]
        route = state.get("route") or getattr(scope.get("route"), "path", "unmatched")
        _requests(route, scope["method"], state["status"]).inc()
        if route not in self._quiet:
            _duration(route).observe(duration_s)
        metrics.record(stats)
        if (state["status"] >= 400 or "error" in state) and route not in self._quiet:
            self._errors.note(
                status=state["status"],
                code=state.get("error_code") or state.get("ended_by"),
                route=route,
                id=state["request_id"],
            )
        if state["status"] == 401:  # of a quiet path, too: somebody may be trying keys
            write_line = log.info
        write_line(
            "request finished",
            client=client,
            method=scope["method"],
            path=scope["path"][:_LOGGED_PATH],
            status=state["status"],
            duration_ms=milliseconds(duration_s),
            **state["log_fields"],
            **stats.log_fields(
                ended_by=state.get("ended_by"), error=(state.get("error") or "")[:300] or None
            ),
        )
        if "span" in state:
            state["span"].end(_ending(scope))


def _failed(scope: Scope) -> Response:
    return error_response(InternalError("The server failed on this request."), scope)


def _ending(scope: Scope) -> Ending:
    state = scope["state"]
    error, status = state.get("ended_by"), state["status"]
    # In the middle of a stream an error has a code and no status of its own.
    at_fault = status >= 500 or (error is not None and status < 400)
    return Ending(
        id=state["request_id"],
        route=scope["path"],
        method=scope["method"],
        status=status,
        error=error,
        at_fault=at_fault,
        stats=state["stats"],
        fields=state["log_fields"],
    )


@cache  # a few dozen: the parser bounds the methods, this server the routes and statuses
def _requests(route: str, method: str, status: int) -> Any:
    return metrics.REQUESTS.labels(route, method, str(status))


@cache
def _duration(route: str) -> Any:
    return metrics.DURATION.labels(route)


class Keys:
    """Keys of which a request must have one, as `Authorization: Bearer KEY` or `x-api-key: KEY`."""

    def __init__(self, keys: Secrets) -> None:
        # Digests all have one length, so the time of a comparison does not reveal a key's length.
        self._digests = [_digest(key.get_secret_value().encode()) for key in keys]

    def accept(self, scope: Scope) -> str | None:
        """An owner's name made of the key, which it does not reveal; None: the key is wrong."""
        keys = []
        for name, value in scope["headers"]:
            if name == b"authorization" and value[:7].lower() == b"bearer ":
                keys.append(value[7:].strip())
            elif name == b"x-api-key":
                keys.append(value.strip())
        # All comparisons are made, so that their time does not reveal which key matched.
        matches = [
            digest
            for key in keys
            for digest in self._digests
            if hmac.compare_digest(_digest(key), digest)
        ]
        return hashlib.sha256(b"owner" + matches[0]).hexdigest()[:32] if matches else None


def unauthenticated(scope: Scope) -> Response:
    error = AuthenticationFailed("A valid API key is needed: Authorization: Bearer <key>.")
    response = error_response(error, scope)
    response.headers["www-authenticate"] = "Bearer"
    return response


class Authentication:
    """Refuses requests without a key. Probes, `/`, the documentation and the page's files need
    none."""

    OPEN = frozenset({"/", *_HEALTH, "/docs", "/openapi.json", ICON, BASE})

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._open = self.OPEN | {settings.health_path}
        self._keys = Keys((*settings.api_key, *settings.admin_api_key))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or path in self._open or path.startswith(OPEN_PREFIX):
            await self._app(scope, receive, send)
            return
        if (owner := self._keys.accept(scope)) is not None:
            scope["state"]["owner"] = owner
            await self._app(scope, receive, send)
            return
        await unauthenticated(scope)(scope, receive, send)


class HealthPort:
    """On the port of PORT_HEALTH only the health routes answer: the balancer needs no others, and
    a client that can reach only that port must not reach the model."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._port = settings.health_port
        self._paths = _HEALTH | {settings.health_path}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self._paths:
            address = scope.get("server")
            if address is not None and address[1] == self._port:
                error = RouteNotFound("Only the health routes answer on this port.")
                await error_response(error, scope)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class Traced:
    """Begins the span of a request that generates; RequestScope ends it.

    Behind all that refuses requests by where they come from: a client without a key that names a
    trace must not fill the exporter's queue, nor write that trace's id into the log.
    """

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            path, state = scope["path"], scope["state"]
            if (operation := OPERATIONS.get(path)) is not None:
                arrived = state["stats"].arrived
                state["span"] = self._tracing.begin(operation, path, scope["headers"], arrived)
        await self._app(scope, receive, send)


class Shortcut:
    """Sends POST requests of dialects straight to their endpoints, and all others to the router."""

    def __init__(self, app: ASGIApp, endpoints: Mapping[str, ASGIApp]) -> None:
        self._app = app
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get(scope["path"]) if scope["type"] == "http" else None
        if endpoint is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["state"]["route"] = scope["path"]
        await endpoint(scope, receive, send)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _normalised(path: str) -> str:
    """Correct common slips: `//v1/models`, `/v1/models/` and `/v1/v1/models` (the client adds /v1
    to a base URL that ends in it) all mean `/v1/models`."""
    path = re.sub(r"/{2,}", "/", path)
    while path.startswith("/v1/v1/"):
        path = path[3:]
    return path if path == "/" else path.rstrip("/")
