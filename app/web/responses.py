"""JSON responses: answers of routes, and errors in the format of their path's vendor."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Scope

from app.dialects.error_forms import form_of
from app.errors import (
    BodyTimeout,
    Draining,
    RequestAborted,
    RequestTimedOut,
    RouteNotFound,
    ServeError,
)


def json_response(
    content: Any, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return Response(orjson.dumps(content), status, headers=headers, media_type="application/json")


def error_response(error: ServeError, scope: Scope) -> Response:
    """`scope`: the request's; its path chooses the vendor's format, its state has the id."""
    status, content, headers = rendered(error, scope)
    return Response(content, status, headers=headers, media_type="application/json")


def rendered(error: ServeError, scope: Scope) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers (without the content's own) of an error answer."""
    note_error(error, scope)
    unknown = isinstance(error, RouteNotFound)
    form = form_of(scope["path"], anthropics=is_anthropics(scope), unknown=unknown)
    request_id = scope["state"]["request_id"]
    scope["state"]["error_code"] = error.code
    headers = form.headers(error, request_id)
    if isinstance(error, RequestAborted | RequestTimedOut):
        headers["x-should-retry"] = "false"  # OpenAI's and Anthropic's SDKs obey it
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    if isinstance(error, Draining | BodyTimeout):
        headers["connection"] = "close"
    return form.status(error), orjson.dumps(form.body(error, request_id)), headers


def note_error(error: ServeError, scope: Scope) -> None:
    """Have the request's end line say why it failed."""
    state = scope["state"]
    state["ended_by"], state["error"] = error.code, error.message
    if error.param is not None:
        state["log_fields"]["param"] = error.param


def is_anthropics(scope: Scope) -> bool:
    """The client is one of Anthropic's: only theirs say this."""
    return any(name == b"anthropic-version" for name, _ in scope.get("headers", ()))
