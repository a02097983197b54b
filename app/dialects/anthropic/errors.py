"""Errors in Anthropic's format: envelope, statuses, types and headers.

Source: https://docs.anthropic.com/en/api/errors, read 2026-11. The SDKs take the request's id from
the `request-id` header alone, and wait as `retry-after` says.
"""

from __future__ import annotations

import re

from pydantic import ValidationError

from app.dialects.openai import errors as openai
from app.errors import (
    AuthenticationFailed,
    BodyTooLarge,
    ContextLengthExceeded,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    RequestAborted,
    RequestTimedOut,
    RouteNotFound,
    ServeError,
    Unavailable,
)
from app.types import Json

_TYPES: tuple[tuple[type[ServeError], str], ...] = (
    (AuthenticationFailed, "authentication_error"),
    (ModelNotFound, "not_found_error"),
    (RouteNotFound, "not_found_error"),
    (BodyTooLarge, "request_too_large"),
    (InternalError, "api_error"),
    (RequestAborted, "api_error"),
    (RequestTimedOut, "timeout_error"),
    (Unavailable, "overloaded_error"),
)
_NAMES_FIELD = re.compile(r"^Invalid (value|type) for '[^']{1,300}': ")
_OVERLOADED = 529
"""Anthropic's own status. Other errors keep their 503, which load balancers understand."""


def error_json(error: ServeError, request_id: str) -> Json:
    kind = next((name for each, name in _TYPES if isinstance(error, each)), "invalid_request_error")
    return {
        "type": "error",
        "error": {"type": kind, "message": _message(error)},
        "request_id": header_id(request_id),
    }


def _message(error: ServeError) -> str:
    """Claude Code acts by the words: it compacts a conversation that is too long, and takes out
    what a path names."""
    if isinstance(error, ContextLengthExceeded) and error.size is not None:
        size, unit = error.size
        return f"prompt is too long: {size} {unit} > {error.most} maximum"
    if isinstance(error, ModelNotFound) and not error.message.startswith("model:"):
        return f"model: {error.message}"
    if error.param is None or not isinstance(error, InvalidRequest):
        return error.message
    return _at(error.param, error.message)


def status(error: ServeError) -> int:
    return _OVERLOADED if isinstance(error, Overloaded) else error.status


def headers(error: ServeError, request_id: str) -> dict[str, str]:
    # Claude Code retries a 401 as it retries an overload unless this header forbids it.
    retry = {"x-should-retry": "false"} if isinstance(error, AuthenticationFailed) else {}
    return {"request-id": header_id(request_id)} | retry


def explained(error: ValidationError) -> InvalidRequest:
    """Name the first wrong field by its dotted path, in front: `messages.0.role: ...`."""
    first = openai.explained(error)
    if first.param is None:
        return first
    missing = first.code == "missing_required_parameter"
    message = "Field required" if missing else first.message
    return type(first)(_at(first.param, message), param=first.param, code=first.code)


def _at(param: str, message: str) -> str:
    """The message with the field's path in front, once."""
    path = _path(param)
    message = _NAMES_FIELD.sub("", message)
    return message if message.startswith((f"{path}: ", f"`{path}`")) else f"{path}: {message}"


def _path(param: str) -> str:
    return param.replace("[", ".").replace("]", "")


def header_id(request_id: str) -> str:
    return f"req_{request_id}"
