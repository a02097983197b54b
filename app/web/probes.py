"""Routes for operators and platforms: health, readiness, metrics, and what this server is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import Annotated

from fastapi import APIRouter, FastAPI, Path, Request
from msgspec import to_builtins
from starlette.responses import Response

from app.dialects.anthropic import models as anthropic
from app.dialects.openai import models
from app.errors import ConfigError, RouteNotFound
from app.lifecycle import Phase
from app.metrics import Metrics
from app.types import Json
from app.version import version
from app.web.page.routes import page, wants_page
from app.web.responses import is_anthropics, json_response
from app.web.state import Serving, serving_of

router = APIRouter()


@router.get("/", summary="What this server is")
async def root(request: Request) -> Response:
    """A page for browsers, unless `UI=false`; JSON for all other clients."""
    serving = serving_of(request)
    if serving.settings.ui and wants_page(request):
        return page(request)
    return json_response(
        {
            "service": "serve_hathora",
            "version": version().release,
            "commit": version().commit,
            "sglang": version().sglang,
            "engine": serving.settings.engine,
            "model": serving.settings.names[0],
            "hathora_region": serving.settings.hathora_region,
            "phase": str(serving.lifecycle.phase),
            "endpoints": sorted(request.app.openapi()["paths"]),
        },
        headers={"vary": "accept"},
    )


@router.get("/health", summary="State of server and engine")
async def health(request: Request) -> Response:
    """200 when ready, else 503. Never generates.

    Also 200 on a node that holds a part of a model that node 0 serves.
    """
    serving = serving_of(request)
    phase = serving.lifecycle.phase
    gauges = serving.gauges()
    stalled = _stalled(serving)
    ready = (serving.lifecycle.ready or phase is Phase.FOLLOWING) and not stalled
    loading = phase.loading
    body: Json = {
        "status": "ok" if ready else "starting" if loading else str(phase),
        "engine_status": "ready" if ready else "not_initialized" if loading else "unavailable",
        "hathora_region": serving.settings.hathora_region,
        "model_path": serving.settings.model_path,
        "timestamp": time.time(),
        "phase": str(phase),
        "uptime_s": round(serving.lifecycle.uptime_s, 1),
        "in_flight": gauges.in_flight,
        "engine_silent_s": round(gauges.longest_silence_s, 1) if serving.host.engine else None,
        "event_loop_lag_s": round(gauges.lag_s, 4),
        "network": to_builtins(serving.network()),
    }
    body |= serving.lifecycle.took_s
    if (fetched := serving.lifecycle.fetched) is not None:
        body |= {"downloaded_bytes": fetched[0], "download_bytes": fetched[1]}
    if serving.settings.engine == "scripted":
        body["engine"] = "scripted: no model is behind this server"
    if serving.lifecycle.reason:
        body["reason"] = serving.lifecycle.reason
    if serving.lifecycle.asleep:
        body |= {"asleep": True} if ready else {"asleep": True, "status": "asleep"}
    if stalled:
        body |= {"status": "stalled", "engine_status": "stalled"}
    return json_response(body, 200 if ready else 503, {} if ready else {"retry-after": "5"})


@router.get("/livez", summary="Shall this process be left running?")
async def livez(request: Request) -> Response:
    """200 as soon as the process answers; 503 once the engine is lost or hangs."""
    serving = serving_of(request)
    lost = serving.lifecycle.phase.broken or _stalled(serving)
    return json_response(
        {"status": "dead" if lost else "ok", "phase": str(serving.lifecycle.phase)},
        503 if lost else 200,
    )


def _stalled(serving: Serving) -> bool:
    """The engine hangs; the process is about to end, if it can."""
    bound_s = serving.settings.engine_stall_timeout_s
    return bound_s > 0 and serving.gauges().longest_silence_s > bound_s


@router.get("/readyz", summary="Shall this server be sent requests?")
async def readyz(request: Request) -> Response:
    lifecycle = serving_of(request).lifecycle
    phase, ready = lifecycle.phase, lifecycle.ready
    return json_response(
        {"status": "ok" if ready else "not ready", "phase": str(phase)},
        200 if ready else 503,
        {} if ready else {"retry-after": "5"},
    )


_LOADING: dict[int | str, Json] = {204: {"description": "The model is loading."}}


@router.get("/ping", summary="RunPod's load balancer: 204 loading, 200 ready", responses=_LOADING)
async def ping(request: Request) -> Response:
    lifecycle = serving_of(request).lifecycle
    phase, ready = lifecycle.phase, lifecycle.ready
    if phase.loading:
        return Response(status_code=204)
    status = "healthy" if ready else "asleep" if lifecycle.refuses else str(phase)
    return json_response({"status": status}, 200 if ready else 503)


_MAY_BE_ASKED = frozenset({"/ping", "/health", "/readyz"})


def add_health_path(app: FastAPI, path: str | None, taken: Collection[str]) -> None:
    """Have HEALTH_CHECK_PATH answer as `/ping`. Raises ConfigError if it is one of the paths that
    are `taken`."""
    if path is None or path in _MAY_BE_ASKED:
        return
    if path in taken:
        raise ConfigError(
            f"HEALTH_CHECK_PATH={path}: this route does not say whether the model is ready; take "
            "/ping"
        )
    app.add_api_route(
        path, ping, methods=["GET"], summary="As /ping: HEALTH_CHECK_PATH", responses=_LOADING
    )


@router.get("/metrics", summary="Prometheus metrics")
async def metrics(request: Request) -> Response:
    source = serving_of(request).metrics
    if source is None:
        raise RouteNotFound("Metrics are switched off (ENABLE_METRICS=false).")
    return Response(await asyncio.to_thread(source.scrape), media_type=Metrics.CONTENT_TYPE)


@router.get("/v1/models", summary="The model's names")
async def list_models(request: Request) -> Response:
    serving = serving_of(request)
    if is_anthropics(request.scope):
        query = request.query_params
        content = await anthropic.listed(
            serving.host.model,
            serving.lifecycle,
            limit=query.get("limit"),
            after=query.get("after_id"),
            before=query.get("before_id"),
        )
    else:
        content = await models.listed(serving.host.model, serving.lifecycle)
    return json_response(content)


@router.get("/v1/models/{model:path}", summary="One model")
async def one_model(
    request: Request, model: Annotated[str, Path(description="A name from `/v1/models`.")]
) -> Response:
    serving = serving_of(request)
    vendor = anthropic if is_anthropics(request.scope) else models
    return json_response(await vendor.card(model, serving.host.model, serving.lifecycle))
