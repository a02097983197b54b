"""Reads a job's input into one request.

Sources: the handlers of worker-vllm (versions of 2025-09 and 2026-07), worker-sglang (2025-11) and
runpod-sglang-openai-worker; https://docs.runpod.io/serverless/vllm/openai-compatibility, read
2026-11.

    {"openai_route": ..., "openai_input": {...}}     what the platform makes of /openai/v1/... calls
    {"route": ..., "method": ..., "body": {...}}     any route, as in newer worker-vllm
    {"messages": [...], ...}                         a conversation
    {"prompt": "...", "sampling_params": {...}}      a text, as in older worker-vllm
    {"text" | "input_ids": ..., ...}                 SGLang's own /generate
"""

from __future__ import annotations

import math
import re
from typing import Any, Literal, TypeAlias

import msgspec
import orjson

from app.dialects.body import Unsupported
from app.dialects.openai.chat import ChatBody
from app.dialects.openai.completions import CompletionBody
from app.dialects.routes import methods_of
from app.errors import BodyTooLarge, InvalidRequest, UnsupportedParameter
from app.runpod.backend import JobRequest, OutputForm
from app.runpod.batches import Growth
from app.settings.catalogue import Settings
from app.types import Json

CHAT, COMPLETIONS, GENERATE = "/v1/chat/completions", "/v1/completions", "/generate"
MODELS, HEALTH = "/v1/models", "/health"
_UNDER_V1 = (
    "/chat/",
    "/completions",
    "/embeddings",
    "/models",
    "/responses",
    "/conversations",
    "/messages",
    "/tokens",
)
_ROUTE = re.compile(r"[A-Za-z0-9._:@+/-]*[A-Za-z0-9][A-Za-z0-9._:@+/-]*")
_GENERATE_FIELDS = ("text", "input_ids", "input_embeds")
_BATCH_FIELDS = ("min_batch_size", "max_batch_size", "batch_size_growth_factor")
_LARGEST_BATCH = 100_000
_JOB_FIELDS = frozenset({"apply_chat_template", "sampling_params", "extra_body", *_BATCH_FIELDS})
"""Fields of a job that are not fields of a request."""
_ACCEPTED = (
    "A job's input needs one of: 'messages'; 'prompt'; 'text' or 'input_ids' (SGLang's /generate); "
    "'openai_route' with 'openai_input'; 'route' with 'body'."
)

_SAME_NAME = frozenset({
    "n", "best_of", "presence_penalty", "frequency_penalty", "repetition_penalty", "temperature",
    "top_p", "top_k", "min_p", "stop", "stop_token_ids", "ignore_eos", "max_tokens", "min_tokens",
    "skip_special_tokens", "seed", "logit_bias", "include_stop_str_in_output", "use_beam_search",
    "length_penalty", "early_stopping", "truncate_prompt_tokens", "logits_processors", "bad_words",
    "allowed_token_ids",
})  # fmt: skip
"""Sampling parameters of vLLM that the dialects know by the same name, if only to refuse them."""
_RENAMED = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens"}
_HARMLESS: Unsupported = {
    "detokenize": (True,),
    "logprobs": (),
    "prompt_logprobs": (),
    "spaces_between_special_tokens": (True,),
}
"""Those that no dialect knows, with the values that have no effect. worker-vllm's output has no
place for log-probabilities."""
_OPENAI = frozenset().union(
    *(body.model_fields.keys() | body.unsupported.keys() for body in (ChatBody, CompletionBody))
) - {"messages", "prompt", "model", "stream"}
"""Fields of OpenAI's bodies, which today's worker-vllm takes among the sampling parameters, too."""
_VLLM_MAX_TOKENS = 100
"""worker-vllm's default before 2026-07 (its documentation says 16)."""

Method: TypeAlias = Literal["GET", "POST", "DELETE"]


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that apply to jobs."""

    growth: Growth
    output: Literal["auto", "classic", "openai", "vllm"]
    default_model: str | None
    """The model of bodies that name none. None: the dialects choose it."""
    forwards: bool
    """Jobs are forwarded to another server, whose answers are all in OpenAI's format."""
    max_body_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> Rules:
        forwards = settings.upstream_url is not None
        return cls(
            growth=Growth(
                settings.min_batch_size, settings.batch_size_growth_factor, settings.max_batch_size
            ),
            output="openai" if forwards else settings.job_output,
            default_model=(settings.upstream_model or "default") if forwards else None,
            forwards=forwards,
            max_body_bytes=settings.most_body_bytes(pictures=settings.images),
        )


def read_job(job_input: Any, rules: Rules) -> JobRequest:
    """Raises InvalidRequest that names the wrong field, or lists the accepted inputs."""
    if not isinstance(job_input, dict):
        raise InvalidRequest(_ACCEPTED, param="input", code="missing_required_parameter")
    if _has(job_input, "openai_route"):
        return _routed(job_input, "openai_route", "openai_input", rules)
    if _has(job_input, "route"):
        return _routed(job_input, "route", "body", rules)
    if _has(job_input, "openai_input"):
        body = _object(job_input, "openai_input")
        route = CHAT if _has(body, "messages") else COMPLETIONS
        growth = _growth(rules.growth, body, job_input)
        return _request(route, "POST", body, OutputForm.OPENAI, growth, rules)
    if _has(job_input, "messages") or _has(job_input, "prompt"):
        return _prompted(job_input, rules)
    if any(_has(job_input, name) for name in _GENERATE_FIELDS):
        body = {name: value for name, value in job_input.items() if name not in _BATCH_FIELDS}
        growth = _growth(rules.growth, job_input)
        return _request(GENERATE, "POST", body, OutputForm.OPENAI, growth, rules)
    raise InvalidRequest(_ACCEPTED, param="input", code="missing_required_parameter")


def normalised_route(route: str) -> str:
    """`chat/completions`, `/chat/completions/` and `/v1/v1/chat/completions` all mean
    `/v1/chat/completions`. Routes that are not OpenAI's do not get the prefix."""
    path = "/" + "/".join(part for part in route.split("/") if part)
    while path.startswith("/v1/v1/"):
        path = path[3:]
    return "/v1" + path if path.startswith(_UNDER_V1) else path


# -- the shapes --------------------------------------------------------------------------------


def _routed(job_input: Json, route_field: str, body_field: str, rules: Rules) -> JobRequest:
    route = job_input[route_field]
    if not isinstance(route, str) or not _ROUTE.fullmatch(route) or ".." in route:
        raise InvalidRequest(
            f"Invalid value for '{route_field}': must be a path such as {CHAT}.", param=route_field
        )
    path = normalised_route(route)
    body = _object(job_input, body_field)
    growth = _growth(rules.growth, body, job_input)
    method = _method(job_input, path, bare=job_input.get(body_field) is None)
    return _request(path, method, body, OutputForm.OPENAI, growth, rules)


def _method(job_input: Json, path: str, *, bare: bool) -> Method:
    """The job's `method`; by default GET for read-only routes and for a bare `route`, else POST.

    `bare`: it has no body.
    """
    method = job_input.get("method")
    if method is None:
        reads = path in (MODELS, HEALTH) or path.startswith(MODELS + "/")
        kept = methods_of(path)
        reads |= bool(kept) and (bare or "POST" not in kept) and "GET" in kept
        return "GET" if reads or (bare and "route" in job_input) else "POST"
    match method.upper() if isinstance(method, str) else None:
        case "GET":
            return "GET"
        case "POST":
            return "POST"
        case "DELETE":
            return "DELETE"
    raise InvalidRequest("Invalid value for 'method': must be GET, POST or DELETE.", param="method")


def _prompted(job_input: Json, rules: Rules) -> JobRequest:
    """`messages` or `prompt`, with OpenAI's fields beside them or vLLM's in `sampling_params`."""
    form = _form(job_input, rules)
    body = {name: value for name, value in job_input.items() if name not in _JOB_FIELDS}
    params = _object(job_input, "sampling_params")
    body |= params if rules.forwards else _sampling(params, form)
    body |= _object(job_input, "extra_body")
    messages, prompt = body.get("messages"), body.pop("prompt", None)
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    elif messages is None and (rules.forwards or _switch(job_input, "apply_chat_template")):
        messages = [{"role": "user", "content": prompt}]
    if messages is None:
        body.pop("messages", None)
        body["prompt"] = prompt
    else:
        body["messages"] = messages
    if form is OutputForm.VLLM:
        if body.get("max_completion_tokens") is None and body.get("max_tokens") is None:
            body["max_tokens"] = _VLLM_MAX_TOKENS
        body.pop("stream_options", None)
        if body.get("stream"):
            # Each yield has the number of tokens so far.
            body["stream_options"] = {"continuous_usage_stats": True}
    route = COMPLETIONS if messages is None else CHAT
    return _request(route, "POST", body, form, _growth(rules.growth, job_input), rules)


def _form(job_input: Json, rules: Rules) -> OutputForm:
    """worker-vllm answers every job in OpenAI's form since 2026-07. Before it answered its own jobs
    with tokens; worker-sglang, whose jobs have no `sampling_params` beside `messages`, never has.
    """
    match rules.output:
        case "auto":
            return OutputForm.OPENAI
        case "classic":
            plain = _has(job_input, "messages") and not _has(job_input, "sampling_params")
            return OutputForm.OPENAI if plain else OutputForm.VLLM
        case form:
            return OutputForm(form)


def _sampling(params: Json, form: OutputForm) -> Json:
    """vLLM's sampling parameters as fields of a request."""
    fields: Json = {}
    for name, value in params.items():
        if value is None:
            continue
        if name in _SAME_NAME or name in _RENAMED:
            fields[_RENAMED.get(name, name)] = value
        elif form is OutputForm.OPENAI and name in _OPENAI:
            fields[name] = value  # the dialect honours it, or refuses it by name
        elif name not in _HARMLESS or not any(
            value == harmless and type(value) is type(harmless) for harmless in _HARMLESS[name]
        ):
            field = f"sampling_params.{ascii(name)[1:41].rstrip(chr(39))}"
            raise UnsupportedParameter(
                f"Unsupported parameter: '{field}' is not supported by this server.", param=field
            )
    return fields


# -- what the shapes share ---------------------------------------------------------------------


def _request(
    route: str, method: Method, body: Json, form: OutputForm, growth: Growth, rules: Rules
) -> JobRequest:
    body = {name: value for name, value in body.items() if name not in _BATCH_FIELDS}
    if isinstance(body.get("extra_body"), dict):
        body |= body.pop("extra_body")
    names_model = method == "POST" and route.startswith("/v1/")
    if rules.default_model and names_model and not body.get("model"):
        body["model"] = rules.default_model
    try:
        raw = orjson.dumps(body)
    except TypeError as error:
        raise InvalidRequest(f"The job's input is not plain JSON: {error}"[:200]) from None
    if len(raw) > rules.max_body_bytes:
        raise BodyTooLarge(
            f"The job's input is over {rules.max_body_bytes} bytes (MAX_BODY_BYTES)."
        )
    return JobRequest(route=route, method=method, body=raw, form=form, growth=growth)


def _growth(default: Growth, *layers: Json) -> Growth:
    """The batch fields of the job, else of the settings; a later layer overrides an earlier one."""
    first, factor, most = default.first, default.factor, default.most
    for layer in layers:
        first = _count(layer, "min_batch_size", first)
        most = _count(layer, "max_batch_size", most)
        factor = _factor(layer, factor)
    return Growth(first, factor, most)


def _count(layer: Json, field: str, default: int) -> int:
    value = layer.get(field)
    if value is None:
        return default
    if type(value) is not int or not 1 <= value <= _LARGEST_BATCH:
        raise InvalidRequest(
            f"Invalid value for '{field}': must be an integer from 1 to {_LARGEST_BATCH}.",
            param=field,
        )
    return value


def _factor(layer: Json, default: float) -> float:
    field = "batch_size_growth_factor"
    value = layer.get(field)
    if value is None:
        return default
    if type(value) not in (int, float) or not 1 <= value < math.inf:
        raise InvalidRequest(f"Invalid value for '{field}': must be at least 1.", param=field)
    return float(min(value, _LARGEST_BATCH))


def _has(content: Json, field: str) -> bool:
    return content.get(field) is not None


def _object(content: Json, field: str) -> Json:
    value = content.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest(
            f"Invalid type for '{field}': expected an object.", param=field, code="invalid_type"
        )
    return dict(value)


def _switch(content: Json, field: str) -> bool:
    value = content.get(field)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(
            f"Invalid type for '{field}': expected a boolean.", param=field, code="invalid_type"
        )
    return bool(value)
