"""Routes for the operator: they need the admin key, and do not exist if none is configured.

Source: sglang/srt/entrypoints/http_server.py of SGLang 0.5.23, whose router and benchmarks call
them with these paths and bodies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from app.adapters.registry import Adapters
from app.dialects.body import AnyBody, read
from app.dialects.sglang.admin import (
    AbortBody,
    LoadAdapterBody,
    ProfileBody,
    UnloadAdapterBody,
)
from app.errors import InvalidRequest
from app.logs.setup import log
from app.web.bodies import read_body
from app.web.middleware import Keys, unauthenticated
from app.web.responses import json_response
from app.web.state import serving_of

_LONGEST_WAIT_S = 300.0
_SLEEPS_WITHIN_S = 30.0
_POLL_S = 0.1


class _AdminRoute(APIRoute):
    """Refuses every request without the admin key."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            if not Keys(serving_of(request).settings.admin_api_key).accept(request.scope):
                return unauthenticated(request.scope)
            return await handle(request)

        return guarded


router = APIRouter(route_class=_AdminRoute)


@router.post("/flush_cache", summary="Empty the prefix cache")
@router.get("/flush_cache", include_in_schema=False)
async def flush_cache(request: Request) -> Response:
    """400 if requests are running. `timeout`: first wait up to this many seconds for their end."""
    serving, (engine, _) = serving_of(request), serving_of(request).loaded()
    clock = asyncio.get_running_loop().time
    deadline = clock() + _timeout_s(request)
    while serving.gauges().in_flight or not await engine.flush_cache():
        if clock() >= deadline:
            raise InvalidRequest("The cache was not flushed: requests are running.")
        await asyncio.sleep(_POLL_S)
    return json_response({"success": True, "message": "Cache flushed."})


@router.post("/abort_request", summary="End one request, or all")
async def abort_request(request: Request) -> Response:
    body = await _body(AbortBody, request)
    if not body.abort_all and body.rid is None:
        raise InvalidRequest(
            "Missing required parameter: 'rid' or 'abort_all'.",
            param="rid",
            code="missing_required_parameter",
        )
    name = None if body.abort_all else body.rid
    ended = await serving_of(request).abort(name)
    log.warning("requests aborted by the operator", count=ended)
    return json_response({"aborted": ended})


@router.post("/start_profile", summary="Start the engine's profiler")
@router.get("/start_profile", include_in_schema=False)
async def start_profile(request: Request) -> Response:
    options = await _body(ProfileBody, request)
    engine, _ = serving_of(request).loaded()
    await engine.profile(options.model_dump(exclude_none=True))
    return json_response({"success": True, "message": "Profiling started."})


@router.post("/stop_profile", summary="Stop the engine's profiler")
@router.get("/stop_profile", include_in_schema=False)
async def stop_profile(request: Request) -> Response:
    engine, _ = serving_of(request).loaded()
    await engine.profile(None)
    return json_response({"success": True, "message": "Profiling stopped."})


@router.post("/v1/load_lora_adapter", summary="Load a LoRA adapter")
@router.post("/load_lora_adapter", include_in_schema=False)
async def load_adapter(request: Request) -> Response:
    """From a folder of this machine, or the hub; requests ask for it by its name as `model`."""
    body = await _body(LoadAdapterBody, request)
    adapters = _adapters(request)
    await adapters.load(body.lora_name, body.lora_path)
    return _loaded(adapters, f"LoRA adapter '{body.lora_name}' added successfully.")


@router.post("/v1/unload_lora_adapter", summary="Unload a LoRA adapter")
@router.post("/unload_lora_adapter", include_in_schema=False)
async def unload_adapter(request: Request) -> Response:
    """At once for new requests; answered when the last request that uses it has ended."""
    body = await _body(UnloadAdapterBody, request)
    adapters = _adapters(request)
    await adapters.unload(body.lora_name)
    return _loaded(adapters, f"LoRA adapter '{body.lora_name}' removed successfully.")


@router.post("/sleep", summary="Have the engine give its memory back")
async def sleep(request: Request) -> Response:
    """Answered when it has; `timeout`: seconds that requests in flight may take until then, else
    503. vLLM's `level` is 1: the weights are kept in the machine's memory."""
    if request.query_params.get("level", "1") != "1":
        raise InvalidRequest(
            "Invalid value for 'level': must be 1; the weights are kept.", param="level"
        )
    serving, (engine, _) = serving_of(request), serving_of(request).loaded()
    await serving.sleep.begin(engine, _timeout_s(request, default_s=_SLEEPS_WITHIN_S))
    return json_response({"success": True, "message": "Asleep."})


@router.post("/wake_up", summary="Have it take its memory again, and serve")
async def wake_up(request: Request) -> Response:
    if request.query_params.get("tags"):
        raise InvalidRequest("Unsupported parameter: 'tags'; all comes back.", param="tags")
    serving, (engine, _) = serving_of(request), serving_of(request).loaded()
    await serving.sleep.end(engine)
    return json_response({"success": True, "message": "Awake."})


@router.get("/is_sleeping", summary="Whether the engine is asleep")
async def is_sleeping(request: Request) -> Response:
    return json_response({"is_sleeping": serving_of(request).lifecycle.asleep})


def _adapters(request: Request) -> Adapters:
    _, model = serving_of(request).loaded()
    if model.adapters is None:
        raise InvalidRequest("LoRA adapters are not served here: set ENABLE_LORA=true.")
    return model.adapters


def _loaded(adapters: Adapters, message: str) -> Response:
    return json_response(
        {"success": True, "message": message, "loaded_adapters": adapters.loaded()}
    )


async def _body(kind: type[AnyBody], request: Request) -> AnyBody:
    serving = serving_of(request)
    raw = await read_body(
        request.headers, request.receive, serving.settings, serving.most_body_bytes
    )
    return read(kind, raw or b"{}", serving.bounds, request.url.path)


def _timeout_s(request: Request, default_s: float = 0.0) -> float:
    parameter = request.query_params.get("timeout", str(default_s))
    try:
        timeout_s = float(parameter)
    except ValueError:
        timeout_s = -1.0
    if not 0 <= timeout_s <= _LONGEST_WAIT_S:
        raise InvalidRequest(
            f"Invalid value for 'timeout': must be 0 to {_LONGEST_WAIT_S:g} seconds.",
            param="timeout",
        )
    return timeout_s
