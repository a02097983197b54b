"""The error format of each vendor; `form_of` alone chooses one, by the request's path.

So a 401, 404, 408, 413 or 503 on a vendor's path is what that vendor's clients expect, whether the
connection, a middleware, the router or the dialect raised it.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from pydantic import ValidationError

from app.dialects.anthropic import errors as anthropic
from app.dialects.openai import errors as openai
from app.errors import InvalidRequest, ServeError
from app.types import Json


def _same_status(error: ServeError) -> int:
    return error.status


def _no_headers(error: ServeError, request_id: str) -> dict[str, str]:
    return {}


class ErrorForm(msgspec.Struct, frozen=True, kw_only=True):
    """How one vendor answers an error. `request_id`: that of the `X-Request-ID` header."""

    body: Callable[[ServeError, str], Json]
    explain: Callable[[ValidationError], InvalidRequest]
    """Turn a failed validation into an error that names the first wrong field."""
    status: Callable[[ServeError], int] = _same_status
    headers: Callable[[ServeError, str], dict[str, str]] = _no_headers
    """Headers beside those that every error answer has."""


OPENAI = ErrorForm(body=openai.error_json, explain=openai.explained)
ANTHROPIC = ErrorForm(
    body=anthropic.error_json,
    explain=anthropic.explained,
    status=anthropic.status,
    headers=anthropic.headers,
)
_SHARED = ("/v1/models", "/v1/files", "/v1/skills")
_BY_PREFIX = (("/v1/messages", ANTHROPIC), ("/v1/complete", ANTHROPIC))
"""`/v1/messages` and the paths below it. Every other path, SGLang's and vLLM's included, has
OpenAI's envelope, which contains theirs."""


def answer_headers(
    path: str, request_id: str, *, anthropics: bool
) -> tuple[tuple[bytes, bytes], ...]:
    """Headers that the path's vendor has on every answer that is no error."""
    if form_of(path, anthropics=anthropics) is OPENAI:
        return ()
    return ((b"request-id", anthropic.header_id(request_id).encode()),)


def form_of(path: str, *, anthropics: bool = False, unknown: bool = False) -> ErrorForm:
    """`anthropics`: the client is, which matters where several vendors have the same path, or none
    has (`unknown`)."""
    for prefix, form in _BY_PREFIX:
        if path == prefix or path.startswith(prefix + "/"):
            return form
    return ANTHROPIC if anthropics and (unknown or path.startswith(_SHARED)) else OPENAI
