"""Routes that SGLang's routers and benchmarks call: what this server runs, and how busy it is.

Source: sglang/srt/entrypoints/http_server.py and v1_loads.py of SGLang 0.5.23; sglang-router's
worker discovery and load policies, and sglang/benchmark/, for the fields that are read. SGLang has
removed `/get_load`, but its router still calls it.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from app.engine.base import Engine, EngineInfo, Load
from app.errors import InvalidRequest
from app.types import Json
from app.web.responses import json_response
from app.web.state import serving_of

router = APIRouter()


@router.get("/model_info", summary="The model, in SGLang's words")
@router.get("/get_model_info", include_in_schema=False)
async def model_info(request: Request) -> Response:
    engine, model = serving_of(request).loaded()
    options, info = engine.options(), model.info
    return _lenient_json(
        {
            "model_path": info.model_path,
            "tokenizer_path": _tokenizer_path(options, info),
            "served_model_name": model.names[0],
            "is_generation": not info.embeds,
            "model_type": info.model_type,
            "architectures": info.architectures or None,
            "max_model_len": model.limit,
            "context_length": info.context_length,
            "max_req_input_len": info.max_prompt_tokens,
            "vocab_size": info.vocab_size,
            "load_format": options.get("load_format"),
            "reasoning_parser": info.reasoning_parser,
            "tool_call_parser": info.tool_call_parser,
            "preferred_sampling_params": None,
            "weight_version": options.get("weight_version"),
            "disaggregation_mode": "null",
            "has_image_understanding": info.takes_pictures,
            "has_audio_understanding": False,
        }
    )


def _tokenizer_path(options: Json, info: EngineInfo) -> Any:
    own = options.get("tokenizer_path")
    return info.model_path if own in (None, options.get("model_path")) else own


@router.get("/server_info", summary="The engine's options and its state, in SGLang's words")
@router.get("/get_server_info", include_in_schema=False)
async def server_info(request: Request) -> Response:
    serving = serving_of(request)
    engine, model = serving.loaded()
    loads = await serving.host.loads()
    options = engine.options()
    max_running = sum(load.max_running for load in loads)
    return _lenient_json(
        options
        | {
            "model_path": model.info.model_path,
            "tokenizer_path": _tokenizer_path(options, model.info),
            "served_model_name": model.names[0],
            "tp_size": options.get("tp_size") or 1,
            "dp_size": options.get("dp_size") or 1,
            "max_running_requests": min(max_running or 2**31, serving.settings.max_concurrency),
            "max_total_num_tokens": sum(load.max_tokens for load in loads),
            "max_req_input_len": model.info.max_prompt_tokens,
            "context_length": model.info.context_length,
            "version": _sglang_version(engine),
            "uptime_s": round(serving.lifecycle.uptime_s, 1),
            "internal_states": [_internal_state(load) for load in loads],
        }
    )


@router.get("/v1/loads", summary="What the engine's replicas are doing")
async def loads(request: Request) -> Response:
    """`dp_rank` selects one replica. `include` has no effect: there are only the core fields."""
    serving = serving_of(request)
    engine, _ = serving.loaded()
    rank = _rank(request)
    selected = [load for load in await serving.host.loads() if rank in (None, load.replica)]
    return json_response(
        {
            "timestamp": datetime.now(UTC).isoformat(),
            "version": _sglang_version(engine),
            "accelerator": engine.info.device,
            "num_accelerators": _accelerators(engine),
            "in_flight": serving.gauges().in_flight,
            "loads": [_snapshot(load) for load in selected],
        }
    )


@router.get("/get_load", summary="The same for SGLang's router")
async def get_load(request: Request) -> Response:
    serving = serving_of(request)
    serving.loaded()
    return json_response(
        [
            {
                "dp_rank": load.replica,
                "num_reqs": load.running + load.waiting,
                "num_waiting_reqs": load.waiting,
                "num_tokens": load.used_tokens,
            }
            for load in await serving.host.loads()
        ]
    )


@router.get("/health_generate", summary="Does the model answer? Generates one token")
async def health_generate(request: Request) -> Response:
    """200 if it does, or if the engine is busy with other requests; else 503. One generation at a
    time: a call that arrives during another's shares its outcome."""
    began = time.perf_counter()
    await serving_of(request).probe.check()
    taken_ms = round((time.perf_counter() - began) * 1e3, 1)
    return json_response({"status": "ok", "latency_ms": taken_ms})


def _rank(request: Request) -> int | None:
    rank = request.query_params.get("dp_rank")
    if rank is not None and not (rank.isdecimal() and len(rank) < 6):
        raise InvalidRequest("Invalid value for 'dp_rank': must be a number.", param="dp_rank")
    return None if rank is None else int(rank)


def _snapshot(load: Load) -> Json:
    return {
        "dp_rank": load.replica,
        "num_running_reqs": load.running,
        "num_waiting_reqs": load.waiting,
        "num_used_tokens": load.used_tokens,
        "num_total_tokens": load.used_tokens,
        "max_total_num_tokens": load.max_tokens,
        "max_running_requests": load.max_running,
        "token_usage": _usage(load),
        "gen_throughput": load.tokens_per_s,
    }


def _internal_state(load: Load) -> Json:
    return {
        **_snapshot(load),
        "last_gen_throughput": load.tokens_per_s,
        "effective_max_running_requests_per_dp": load.max_running,
    }


def _accelerators(engine: Engine) -> int:
    """Number of accelerators of one replica."""
    options = engine.options()
    return int(options.get("tp_size", 1)) * int(options.get("pp_size", 1))


def _usage(load: Load) -> float:
    return round(load.used_tokens / load.max_tokens, 4) if load.max_tokens else 0.0


def _sglang_version(engine: Engine) -> str:
    return engine.info.version.removeprefix("sglang ")


def _lenient_json(content: Json) -> Response:
    """JSON of values of any type, which the engine's options may have."""
    body = orjson.dumps(content, default=str, option=orjson.OPT_NON_STR_KEYS)
    return Response(body, media_type="application/json")
