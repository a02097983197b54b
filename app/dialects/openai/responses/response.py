"""The response object: what it repeats of its request, and what the model has answered."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import orjson

from app.dialects.openai.responses.body import ResponsesBody
from app.errors import ContextLengthExceeded, RequestAborted, RequestTimedOut, ServeError
from app.events import Usage
from app.types import Json

Bytes = bytes | bytearray


class Rendered(NamedTuple):
    """A response's JSON, in three parts."""

    head: bytes
    output: bytes
    tail: bytes
    items: int = 0
    """Of the output."""

    @property
    def json(self) -> bytes:
        return self.head + self.output + self.tail


class ResponseObject:
    """Renders the object, with the part that does not change rendered once: an agent's tools and
    instructions are tens of kilobytes, and are in each of several events."""

    def __init__(self, id: str, constant: Json) -> None:
        self.id = id
        self._head = orjson.dumps({"id": id, "object": "response", "created_at": int(time.time())})[
            :-1
        ]
        self._constant = orjson.dumps(constant)[1:-1]

    def is_not_kept(self) -> None:
        """Say so."""
        constant = orjson.loads(b"{%b}" % self._constant)
        self._constant = orjson.dumps(constant | {"store": False})[1:-1]

    def render(
        self,
        status: str,
        output: Sequence[Bytes],
        *,
        usage: Usage | None = None,
        error: ServeError | None = None,
        incomplete: str | None = None,
    ) -> Rendered:
        """`output`: the items, as JSON. `incomplete`: why, if `status` is that."""
        ended = {
            "status": status,
            "completed_at": int(time.time()) if status == "completed" else None,
            "error": None if error is None else error_json(error),
            "incomplete_details": None if incomplete is None else {"reason": incomplete},
            "usage": None if usage is None else usage_json(usage),
        }
        return Rendered(
            b'%b,%b,"output":[' % (self._head, orjson.dumps(ended)[1:-1]),
            b",".join(output),
            b"],%b}" % self._constant,
            len(output),
        )


def constant(
    body: ResponsesBody,
    *,
    model: str,
    tools: Sequence[Json],
    defaults: Json,
    stored: bool,
    conversation: str | None,
) -> Json:
    """What a response repeats of its request. `defaults`: the model's own sampling."""
    reasoning = body.reasoning
    asked: dict[str, Any] = {
        "effort": reasoning.effort if reasoning else None,
        "summary": (reasoning.summary or reasoning.generate_summary) if reasoning else None,
    }
    for name in ("context", "mode"):
        if (value := getattr(reasoning, name, None)) is not None:
            asked[name] = value
    return {
        "model": model,
        "background": bool(body.background),
        "conversation": None if conversation is None else {"id": conversation},
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "prompt_cache_retention": body.prompt_cache_retention,
        "reasoning": asked,
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": stored,
        "temperature": _number(body.temperature, defaults.get("temperature"), 1.0),
        "top_p": _number(body.top_p, defaults.get("top_p"), 1.0),
        "presence_penalty": body.presence_penalty or 0.0,
        "frequency_penalty": body.frequency_penalty or 0.0,
        "top_logprobs": body.top_logprobs or 0,
        "text": _text(body),
        "tool_choice": _choice(body),
        "tools": tools,
        "truncation": "disabled",
        "user": body.user,
    }


def usage_json(usage: Usage) -> Json:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def error_json(error: ServeError) -> Json:
    """An error after the answer has begun. Codex, the SDKs and the AI SDK ask again by its code:
    all but a few, which they take for the request's own fault."""
    if isinstance(error, ContextLengthExceeded):
        code = error.code
    elif error.status < 500 or isinstance(error, RequestAborted | RequestTimedOut):
        code = "invalid_prompt"
    else:
        code = "server_error"
    return {"code": code, "message": error.message, "type": error.type, "param": error.param}


def _number(asked: float | None, default: Any, otherwise: float) -> float:
    if asked is not None:
        return asked
    return float(default) if isinstance(default, int | float) else otherwise


def _text(body: ResponsesBody) -> Json:
    options = body.text
    format: Json = {"type": "text"}
    if options is not None and options.format is not None:
        chosen = options.format
        format = {"type": chosen.type}
        if chosen.type == "json_schema":
            format |= {
                "name": chosen.name,
                "description": chosen.description,
                "schema": chosen.json_schema,
                "strict": bool(chosen.strict),
            }
    verbosity = options.verbosity if options else None
    return {"format": format} | ({"verbosity": verbosity} if verbosity else {})


def _choice(body: ResponsesBody) -> Json | str:
    choice = body.tool_choice
    if choice is None or isinstance(choice, str):
        return choice or "auto"
    return choice.model_dump(exclude_none=True)


class Keeper(Protocol):
    """Keeps one response."""

    async def keep(self, status: str, response: Rendered, context: Sequence[Bytes] | None) -> None:
        """`context`: the output as a later request reads it, if it differs.

        Raises StoreUnavailable, TooLargeToKeep, NotKept.
        """

    async def release(self) -> None:
        """Let go of its conversation."""
