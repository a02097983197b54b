"""A job's input -> one request. Nothing is answered here.

Sources: the handlers of worker-vllm (versions of 2025-09 and 2026-07), worker-sglang (2025-11) and
runpod-sglang-openai-worker; https://docs.runpod.io/serverless/vllm/openai-compatibility, read
2026-11.

    {"openai_route": ..., "openai_input": {...}}     what the platform makes of /openai/v1/... calls
    {"route": ..., "method": ..., "body": {...}}     any route, as newer worker-vllm has it
    {"messages": [...], ...}                         a conversation
    {"prompt": "...", "sampling_params": {...}}      a text, as older worker-vllm has it
    {"text" | "input_ids": ..., ...}                 SGLang's own /generate, as it is
"""

from __future__ import annotations

import math
import re
from typing import Any, Literal, TypeAlias

import msgspec
import orjson

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
    "/messages",
    "/tokens",
)
_ROUTE = re.compile(r"[A-Za-z0-9._:@+/-]*[A-Za-z0-9][A-Za-z0-9._:@+/-]*")
_NATIVE = ("text", "input_ids", "input_embeds")
_KNOBS = ("min_batch_size", "max_batch_size", "batch_size_growth_factor")
_LARGEST_BATCH = 100_000
_OURS = frozenset({"apply_chat_template", "sampling_params", "extra_body", *_KNOBS})
"""Fields of a job that are no fields of a request."""
_ACCEPTED = (
    "A job's input needs one of: 'messages'; 'prompt'; 'text' or 'input_ids' (SGLang's /generate); "
    "'openai_route' with 'openai_input'; 'route' with 'body'."
)

_SAME = frozenset({
    "n", "best_of", "presence_penalty", "frequency_penalty", "repetition_penalty", "temperature",
    "top_p", "top_k", "min_p", "stop", "stop_token_ids", "ignore_eos", "max_tokens", "min_tokens",
    "skip_special_tokens", "seed", "logit_bias", "include_stop_str_in_output", "use_beam_search",
    "length_penalty", "truncate_prompt_tokens", "logits_processors", "bad_words",
    "allowed_token_ids",
})  # fmt: skip
"""Sampling parameters of vLLM that the dialects know by the same name, be it to refuse them."""
_RENAMED = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens"}
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "early_stopping": (False,), "spaces_between_special_tokens": (True,), "detokenize": (True,),
    "logprobs": (), "prompt_logprobs": (),
}  # fmt: skip
"""Those that no dialect knows, with the values that change nothing. worker-vllm's output has no
place for log-probabilities."""
_VLLM_MAX_TOKENS = 100
"""worker-vllm's default (its documentation says 16)."""

Method: TypeAlias = Literal["GET", "POST"]


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What the settings say about jobs."""

    growth: Growth
    output: Literal["auto", "openai", "vllm"]
    default_model: str | None
    """For bodies that name no model. None: the dialects fill it in."""
    forwards: bool
    """Jobs go to another server: its answers are passed on, so all output is OpenAI's."""
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
            max_body_bytes=settings.max_body_bytes,
        )


def read_job(given: Any, rules: Rules) -> JobRequest:
    """Raises InvalidRequest that names the field, or what is accepted."""
    if not isinstance(given, dict):
        raise InvalidRequest(_ACCEPTED, param="input", code="missing_required_parameter")
    if _has(given, "openai_route"):
        return _routed(given, "openai_route", "openai_input", rules)
    if _has(given, "route"):
        return _routed(given, "route", "body", rules)
    if _has(given, "openai_input"):
        body = _object(given, "openai_input")
        route = CHAT if _has(body, "messages") else COMPLETIONS
        return _ask(
            route, "POST", body, OutputForm.OPENAI, _growth(rules.growth, body, given), rules
        )
    if _has(given, "messages") or _has(given, "prompt"):
        return _prompted(given, rules)
    if any(_has(given, name) for name in _NATIVE):
        body = {name: value for name, value in given.items() if name not in _KNOBS}
        return _ask(GENERATE, "POST", body, OutputForm.OPENAI, _growth(rules.growth, given), rules)
    raise InvalidRequest(_ACCEPTED, param="input", code="missing_required_parameter")


def tidy_route(route: str) -> str:
    """`chat/completions`, `/chat/completions/` and `/v1/v1/chat/completions` all mean
    `/v1/chat/completions`; routes that are not OpenAI's stay."""
    path = "/" + "/".join(part for part in route.split("/") if part)
    while path.startswith("/v1/v1/"):
        path = path[3:]
    return "/v1" + path if path.startswith(_UNDER_V1) else path


# -- the shapes --------------------------------------------------------------------------------


def _routed(given: Json, route_field: str, body_field: str, rules: Rules) -> JobRequest:
    route = given[route_field]
    if not isinstance(route, str) or not _ROUTE.fullmatch(route) or ".." in route:
        raise InvalidRequest(
            f"Invalid value for '{route_field}': must be a path such as {CHAT}.", param=route_field
        )
    path = tidy_route(route)
    body = _object(given, body_field)
    growth = _growth(rules.growth, body, given)
    method = _method(given, path, bare=body_field == "body" and given.get("body") is None)
    return _ask(path, method, body, OutputForm.OPENAI, growth, rules)


def _method(given: Json, path: str, *, bare: bool) -> Method:
    """As asked for; else GET for what can only be read, and for a bare `route`."""
    asked = given.get("method")
    if asked is None:
        reads = path in (MODELS, HEALTH) or path.startswith(MODELS + "/")
        return "GET" if reads or bare else "POST"
    match asked.upper() if isinstance(asked, str) else None:
        case "GET":
            return "GET"
        case "POST":
            return "POST"
    raise InvalidRequest("Invalid value for 'method': must be GET or POST.", param="method")


def _prompted(given: Json, rules: Rules) -> JobRequest:
    """`messages` or `prompt`, with OpenAI's fields beside them or vLLM's in `sampling_params`."""
    form = _form(given, rules)
    body = {name: value for name, value in given.items() if name not in _OURS}
    body |= _sampling(_object(given, "sampling_params"), form)
    body |= _object(given, "extra_body")
    messages, prompt = body.get("messages"), body.pop("prompt", None)
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    elif messages is None and (rules.forwards or _switch(given, "apply_chat_template")):
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
            # Each yield says how many tokens there have been.
            body["stream_options"] = {"continuous_usage_stats": True}
    route = COMPLETIONS if messages is None else CHAT
    return _ask(route, "POST", body, form, _growth(rules.growth, given), rules)


def _form(given: Json, rules: Rules) -> OutputForm:
    if rules.output != "auto":
        return OutputForm(rules.output)
    plain = _has(given, "messages") and not _has(given, "sampling_params")
    return OutputForm.OPENAI if plain else OutputForm.VLLM


def _sampling(params: Json, form: OutputForm) -> Json:
    """vLLM's sampling parameters as fields of a request."""
    found: Json = {}
    for name, value in params.items():
        if value is None:
            continue
        if name in _SAME or name in _RENAMED:
            found[_RENAMED.get(name, name)] = value
        elif form is OutputForm.OPENAI and name in ("logprobs", "prompt_logprobs"):
            found[name] = value
        elif name not in _HARMLESS or not any(
            value == harmless and type(value) is type(harmless) for harmless in _HARMLESS[name]
        ):
            field = f"sampling_params.{ascii(name)[1:41].rstrip(chr(39))}"
            raise UnsupportedParameter(
                f"Unsupported parameter: '{field}' is not supported by this server.", param=field
            )
    return found


# -- what the shapes share ---------------------------------------------------------------------


def _ask(
    route: str, method: Method, body: Json, form: OutputForm, growth: Growth, rules: Rules
) -> JobRequest:
    body = {name: value for name, value in body.items() if name not in _KNOBS}
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
    """The job's own knobs over the settings'; of several layers the last that has one."""
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


def _has(given: Json, field: str) -> bool:
    return given.get(field) is not None


def _object(given: Json, field: str) -> Json:
    value = given.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest(
            f"Invalid type for '{field}': expected an object.", param=field, code="invalid_type"
        )
    return dict(value)


def _switch(given: Json, field: str) -> bool:
    value = given.get(field)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(
            f"Invalid type for '{field}': expected a boolean.", param=field, code="invalid_type"
        )
    return bool(value)
