"""Forwards jobs to another OpenAI-compatible server (SGLANG_BASE_URL), without an engine here.

Bodies and answers are passed on unchanged. Only opening a connection is retried: a request that may
have arrived must not be sent again, or its answer could be computed and streamed twice.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import httpx
import orjson

from app.dialects.contract import Reply, Stream, Whole
from app.dialects.openai.frames import DONE, error_frames
from app.errors import ConfigError, RouteNotFound, ServeError
from app.gate import Ticket
from app.logs.setup import log
from app.runpod.backend import JobRequest, JobStats
from app.runpod.jobs import CHAT, COMPLETIONS, GENERATE, HEALTH, MODELS
from app.settings.catalogue import Settings
from app.tracing.spans import carried
from app.types import Json

_CONNECT_TIMEOUT_S = 10.0
_CONNECT_RETRIES = 2
_KEEP_ALIVE_S = 2.0
"""Shorter than servers keep an idle connection: they must not close it under a new request."""
_MAX_WHOLE_BYTES = 20_000_000
"""RunPod's limit for a result."""
_MAX_STREAM_BYTES = 64 * 1024 * 1024
_MAX_EVENT_BYTES = 8 * 1024 * 1024
_MAX_ERROR_CHARS = 2000
_END_WITH_DONE = (CHAT, COMPLETIONS, GENERATE)
_FORWARDED = frozenset(
    {GENERATE, HEALTH, "/tokenize", "/detokenize", "/rerank", "/score", "/classify", "/model_info"}
)
"""Beside all of /v1/. Jobs cannot reach the operator's routes of that server."""
_KNOWN = _FORWARDED | {CHAT, COMPLETIONS, MODELS, "/v1/embeddings", "/v1/responses"}


class UpstreamBackend:
    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError."""
        url = settings.upstream_url or ""
        if not url.startswith(("http://", "https://")):
            raise ConfigError("SGLANG_BASE_URL must begin with http:// or https://")
        self._settings = settings
        key = settings.upstream_api_key
        silent_s = settings.upstream_timeout_s
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/").removesuffix("/v1"),
            headers={"authorization": f"Bearer {key.get_secret_value()}"} if key else {},
            timeout=httpx.Timeout(silent_s, connect=min(_CONNECT_TIMEOUT_S, silent_s)),
            transport=httpx.AsyncHTTPTransport(
                retries=_CONNECT_RETRIES,  # of connecting only
                limits=httpx.Limits(keepalive_expiry=_KEEP_ALIVE_S),
            ),
        )

    def route_label(self, route: str) -> str:
        return route if route in _KNOWN else "other"

    async def answer(self, request: JobRequest, stats: JobStats, ticket: Ticket) -> Reply:
        route, posts = request.route, request.method == "POST"
        if not route.startswith("/v1/") and route not in _FORWARDED:
            raise RouteNotFound(f"There is no {route[:100]} here.")
        forwarded = self._http.build_request(
            request.method,
            route,
            content=request.body if posts else None,
            headers={
                **({"content-type": "application/json"} if posts else {}),
                **(carried.get() or {}),  # that server's spans are below the job's
            },
        )
        try:
            response = await self._http.send(forwarded, stream=True)
            stats.log_fields["upstream_status"] = response.status_code
            if response.is_success and _is_stream(response):
                stats.log_fields["stream"] = True
                must_end = route in _END_WITH_DONE
                return Stream(self._relay(response, must_end=must_end), error_frames)
            async with aclosing(response):
                body = await _body(response)
        except httpx.HTTPError as error:
            raise self._failed(error) from error
        if not response.is_success:
            raise _refused(response.status_code, body)
        return Whole(_json(body))

    async def warm_up(self) -> None:
        """Make that server load its model. A failure is logged, and jobs are taken all the same."""
        settings = self._settings
        body = {
            "model": settings.warmup_model or settings.upstream_model or "default",
            "messages": [{"role": "user", "content": settings.warmup_prompt}],
            "max_tokens": settings.warmup_max_tokens,
        }
        began = time.monotonic()
        try:
            response = await self._http.post(CHAT, json=body)
        except httpx.HTTPError as error:
            log.warning("warm-up failed", reason=self._failed(error).message)
            return
        if not response.is_success:
            reason = _refused(response.status_code, response.content).message
            log.warning("warm-up failed", status=response.status_code, reason=reason)
            return
        log.info("warmed up", seconds=round(time.monotonic() - began, 2))

    async def close(self) -> None:
        await self._http.aclose()

    async def _relay(
        self, response: httpx.Response, *, must_end: bool
    ) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(response), aclosing(_events(response, must_end)) as events:
                async for event in events:
                    yield event
        except httpx.HTTPError as error:
            raise self._failed(error) from error

    def _failed(self, error: httpx.HTTPError) -> ServeError:
        if isinstance(error, httpx.ReadTimeout):
            silent_s = self._settings.upstream_timeout_s
            return _error(
                f"The server behind this worker was silent for {silent_s:g} s (SGLANG_TIMEOUT).",
                status=504,
            )
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return _error("The server behind this worker cannot be reached.", status=503)
        action = "ended the connection" if isinstance(error, httpx.TransportError) else "failed"
        return _error(f"The server behind this worker {action} ({type(error).__name__}).")


async def _body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for part in response.aiter_bytes():
        body += part
        if len(body) > _MAX_WHOLE_BYTES:
            raise _error(f"The server behind this worker sent over {_MAX_WHOLE_BYTES} bytes.")
    return bytes(body)


async def _events(response: httpx.Response, must_end: bool) -> AsyncGenerator[bytes, None]:
    """The server-sent events of a stream, without comments.

    Raises ServeError for an event that is an error. `must_end`: also if the stream stops before
    `[DONE]`.
    """
    pending, total, last = b"", 0, b""
    async for part in response.aiter_bytes():
        total += len(part)
        pending += part
        *whole, pending = pending.replace(b"\r\n", b"\n").split(b"\n\n")
        if total > _MAX_STREAM_BYTES or len(pending) > _MAX_EVENT_BYTES:
            raise _error("The server behind this worker sent more than is passed on.")
        for event in whole:
            if event.startswith(b":") or not event.strip():
                continue
            if (error := _error_in(event)) is not None:
                raise _explained(502, error)
            last = event
            yield event + b"\n\n"
    if must_end and last + b"\n\n" != DONE:
        raise _error("The server behind this worker stopped in the middle of its answer.")


def _error_in(event: bytes) -> Json | None:
    """The JSON of an event that is an error, else None. Parses only events that may be errors."""
    data = event.removeprefix(b"data:").lstrip()
    if not data.startswith(b'{"error"') and b'"object":"error"' not in data[:40]:
        return None
    try:
        content = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return content if isinstance(content, dict) else None


def _refused(status: int, body: bytes) -> ServeError:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        content = None
    return _explained(status, content)


def _explained(status: int, content: Any) -> ServeError:
    """Read an error in OpenAI's form, older vLLM's (without `error`) or FastAPI's (`detail`). In
    any other form only its status is known."""
    body = content if isinstance(content, dict) else {}
    error = body.get("error") or body
    if isinstance(error, str):
        return _error(error, status=status)
    error = error if isinstance(error, dict) else {}
    message = error.get("message") or body.get("detail")
    code = error.get("code")
    if status == 502 and isinstance(code, int) and 400 <= code < 600:
        status = code  # SGLang's form of a status in the middle of a stream
    if not isinstance(message, str):
        message = f"The server behind this worker answered with status {status}."
    return _error(message, status=status, original=error)


def _error(message: str, *, status: int = 502, original: Json | None = None) -> ServeError:
    """An error of the other server, or one for an answer that it should not have sent. `original`:
    the error object that it sent, whose `type`, `param` and `code` are kept."""
    error = ServeError(message[:_MAX_ERROR_CHARS], code="upstream_error")
    error.status = status
    if status < 500:
        error.type, error.code = "invalid_request_error", None
    original = original or {}
    if isinstance(original.get("type"), str):
        error.type = original["type"]
    if isinstance(original.get("param"), str):
        error.param = original["param"]
    if isinstance(original.get("code"), str | int):
        error.code = original["code"]
    return error


def _is_stream(response: httpx.Response) -> bool:
    kind: str = response.headers.get("content-type", "")
    return kind.startswith("text/event-stream")


def _json(body: bytes) -> bytes:
    """The body as JSON; the body itself as a JSON string if it is empty or text."""
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return orjson.dumps(body.decode(errors="replace"))
    return body
