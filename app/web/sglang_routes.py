"""What SGLang's routers and benchmarks ask a server: what it runs, and how busy it is.

Source: sglang/srt/entrypoints/http_server.py and v1_loads.py of SGLang 0.5.23; sglang-router's
worker discovery and load policies, and sglang/benchmark/, for what is read. `/get_load` is gone
from SGLang, but its router still asks for it.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from app.engine.base import Engine, Load
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
    return _plain(
        {
            "model_path": info.model_path,
            "tokenizer_path": options.get("tokenizer_path") or info.model_path,
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
            "has_image_understanding": False,
            "has_audio_understanding": False,
        }
    )


@router.get("/server_info", summary="The engine's options and its state, in SGLang's words")
@router.get("/get_server_info", include_in_schema=False)
async def server_info(request: Request) -> Response:
    serving = serving_of(request)
    engine, model = serving.loaded()
    loads = await engine.loads()
    options = engine.options()
    largest = [load.max_running for load in loads if load.max_running]
    return _plain(
        options
        | {
            "model_path": model.info.model_path,
            "tokenizer_path": options.get("tokenizer_path") or model.info.model_path,
            "served_model_name": model.names[0],
            "tp_size": options.get("tp_size") or 1,
            "dp_size": options.get("dp_size") or 1,
            "max_running_requests": min(sum(largest) or 2**31, serving.settings.max_concurrency),
            "max_total_num_tokens": sum(load.max_tokens for load in loads),
            "max_req_input_len": model.info.max_prompt_tokens,
            "context_length": model.info.context_length,
            "version": _sglang(engine),
            "uptime_s": round(serving.lifecycle.uptime_s, 1),
            "internal_states": [_internal_state(load) for load in loads],
        }
    )


@router.get("/v1/loads", summary="What the engine's replicas are doing")
async def loads(request: Request) -> Response:
    """`dp_rank` asks for one replica. `include` is taken: there is only what is core."""
    serving = serving_of(request)
    engine, _ = serving.loaded()
    rank = _rank(request)
    found = [load for load in await engine.loads() if rank in (None, load.replica)]
    return json_response(
        {
            "timestamp": datetime.now(UTC).isoformat(),
            "version": _sglang(engine),
            "accelerator": engine.info.device,
            "num_accelerators": _accelerators(engine),
            "in_flight": serving.gauges().in_flight,
            "loads": [_snapshot(load) for load in found],
        }
    )


@router.get("/get_load", summary="The same for SGLang's router")
async def get_load(request: Request) -> Response:
    engine, _ = serving_of(request).loaded()
    found = await engine.loads()
    return json_response(
        [
            {
                "dp_rank": load.replica, "num_reqs": load.running + load.waiting,
                "num_waiting_reqs": load.waiting, "num_tokens": load.used_tokens,
            }
            for load in found
        ]
    )  # fmt: skip


@router.get("/health_generate", summary="Does the model answer? Generates one token")
async def health_generate(request: Request) -> Response:
    """200 if it does, or if the engine is busy with other requests; else 503. One at a time:
    whoever asks during one waits for its outcome."""
    began = time.perf_counter()
    await serving_of(request).probe.check()
    taken_ms = round((time.perf_counter() - began) * 1e3, 1)
    return json_response({"status": "ok", "latency_ms": taken_ms})


def _rank(request: Request) -> int | None:
    given = request.query_params.get("dp_rank")
    if given is not None and not (given.isdecimal() and len(given) < 6):
        raise InvalidRequest("Invalid value for 'dp_rank': must be a number.", param="dp_rank")
    return None if given is None else int(given)


def _snapshot(load: Load) -> Json:
    return {
        "dp_rank": load.replica, "num_running_reqs": load.running,
        "num_waiting_reqs": load.waiting, "num_used_tokens": load.used_tokens,
        "num_total_tokens": load.used_tokens, "max_total_num_tokens": load.max_tokens,
        "max_running_requests": load.max_running, "token_usage": _usage(load),
        "gen_throughput": load.tokens_per_s,
    }  # fmt: skip


def _internal_state(load: Load) -> Json:
    return {
        **_snapshot(load), "last_gen_throughput": load.tokens_per_s,
        "effective_max_running_requests_per_dp": load.max_running,
    }  # fmt: skip


def _accelerators(engine: Engine) -> int:
    """Of one replica."""
    options = engine.options()
    return int(options.get("tp_size", 1)) * int(options.get("pp_size", 1))


def _usage(load: Load) -> float:
    return round(load.used_tokens / load.max_tokens, 4) if load.max_tokens else 0.0


def _sglang(engine: Engine) -> str:
    return engine.info.version.removeprefix("sglang ")


def _plain(content: Json) -> Response:
    """The engine's options hold whatever they were given."""
    body = orjson.dumps(content, default=str, option=orjson.OPT_NON_STR_KEYS)
    return Response(body, media_type="application/json")
