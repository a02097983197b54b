"""Jobs forwarded to another OpenAI-compatible server (SGLANG_BASE_URL); no engine here.

Bodies and answers are passed on as they are. What is tried again is a connection that could not be
opened, and nothing else: once a request may have arrived, a second one would cost twice or say
everything twice.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import httpx
import orjson

from app.dialects.contract import Reply, Stream, Whole
from app.dialects.openai.frames import DONE, frame
from app.errors import ConfigError, RouteNotFound, ServeError
from app.logs.setup import log
from app.runpod.backend import JobRequest, JobStats
from app.runpod.jobs import CHAT, COMPLETIONS, GENERATE, HEALTH, MODELS
from app.settings.catalogue import Settings
from app.types import Json

_CONNECT_TIMEOUT_S = 10.0
_CONNECT_RETRIES = 2
_KEEP_ALIVE_S = 2.0
"""Shorter than servers keep an idle connection, or a request would meet its end."""
_MAX_WHOLE_BYTES = 20_000_000
"""RunPod takes no larger result."""
_MAX_STREAM_BYTES = 64 * 1024 * 1024
_MAX_EVENT_BYTES = 8 * 1024 * 1024
_MAX_ERROR_CHARS = 2000
_END_WITH_DONE = (CHAT, COMPLETIONS, GENERATE)
_FORWARDED = frozenset(
    {GENERATE, HEALTH, "/tokenize", "/detokenize", "/rerank", "/score", "/classify", "/model_info"}
)
"""Beside all of /v1/: that server's routes for its operator are none of a job's business."""
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

    async def answer(self, ask: JobRequest, record: JobStats) -> Reply:
        if not ask.route.startswith("/v1/") and ask.route not in _FORWARDED:
            raise RouteNotFound(f"There is no {ask.route[:100]} here.")
        request = self._http.build_request(
            ask.method,
            ask.route,
            content=ask.body if ask.method == "POST" else None,
            headers={"content-type": "application/json"} if ask.method == "POST" else {},
        )
        try:
            response = await self._http.send(request, stream=True)
            record.log_fields["upstream_status"] = response.status_code
            if response.is_success and _is_stream(response):
                record.log_fields["stream"] = True
                return Stream(self._relay(response, must_end=ask.route in _END_WITH_DONE), _fail)
            async with aclosing(response):
                body = await _body(response)
        except httpx.HTTPError as error:
            raise self._failed(error) from error
        if not response.is_success:
            raise _refused(response.status_code, body)
        return Whole(_json(body))

    async def warm_up(self) -> None:
        """Have that server load its model. A failure is logged, and no reason not to take jobs."""
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
            said = f"was silent for {silent_s:g} s (SGLANG_TIMEOUT)"
            return _error(f"The server behind this worker {said}.", status=504)
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return _error("The server behind this worker cannot be reached.", status=503)
        said = "ended the connection" if isinstance(error, httpx.TransportError) else "failed"
        return _error(f"The server behind this worker {said} ({type(error).__name__}).")


async def _body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for part in response.aiter_bytes():
        body += part
        if len(body) > _MAX_WHOLE_BYTES:
            raise _error(f"The server behind this worker sent over {_MAX_WHOLE_BYTES} bytes.")
    return bytes(body)


async def _events(response: httpx.Response, must_end: bool) -> AsyncGenerator[bytes, None]:
    """Server-sent events, one after the other, without comments.

    Raises ServeError for one that is an error, and if the stream stops before its end mark.
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
    """The JSON of an event that is an error. Looked at closely only if it may be one."""
    data = event.removeprefix(b"data:").lstrip()
    if not data.startswith(b'{"error"') and b'"object":"error"' not in data[:40]:
        return None
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def _refused(status: int, body: bytes) -> ServeError:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        found = None
    return _explained(status, found)


def _explained(status: int, found: Any) -> ServeError:
    """OpenAI's form, older vLLM's without `error`, FastAPI's `detail`; else the status alone."""
    given = found if isinstance(found, dict) else {}
    error = given.get("error") or given
    if isinstance(error, str):
        return _error(error, status=status)
    error = error if isinstance(error, dict) else {}
    message = error.get("message") or given.get("detail")
    code = error.get("code")
    if status == 502 and isinstance(code, int) and 400 <= code < 600:
        status = code  # in the middle of a stream SGLang says its status so
    if not isinstance(message, str):
        message = f"The server behind this worker answered with status {status}."
    return _error(message, status=status, given=error)


def _error(message: str, *, status: int = 502, given: Json | None = None) -> ServeError:
    """The other server's own error, or that it did not answer as it should. `given`: the error
    object as it came, whose `type`, `param` and `code` are kept."""
    error = ServeError(message[:_MAX_ERROR_CHARS], code="upstream_error")
    error.status = status
    if status < 500:
        error.type, error.code = "invalid_request_error", None
    given = given or {}
    if isinstance(given.get("type"), str):
        error.type = given["type"]
    if isinstance(given.get("param"), str):
        error.param = given["param"]
    if isinstance(given.get("code"), str | int):
        error.code = given["code"]
    return error


def _is_stream(response: httpx.Response) -> bool:
    kind: str = response.headers.get("content-type", "")
    return kind.startswith("text/event-stream")


def _json(body: bytes) -> bytes:
    """Of a route that answers with nothing or with text, that as JSON."""
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return orjson.dumps(body.decode(errors="replace"))
    return body


def _fail(error: ServeError) -> bytes:
    return frame({"error": {
        "message": error.message, "type": error.type, "param": error.param, "code": error.code,
    }}) + DONE  # fmt: skip
