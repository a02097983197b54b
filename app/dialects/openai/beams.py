"""Beam search by vLLM's fields, as worker-vllm's jobs and completions have them.

    use_beam_search, n: sequences that are returned, best_of: width (default: n), length_penalty,
    early_stopping

Source: the tables of worker-vllm; SGLang 0.5.23, `srt/beam_search/`: it scores by the model's own
log-probabilities, a sequence's sum divided by its length, and stops at `max_tokens`. What it does
not know is refused by its name here.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from app.dialects.body import Body
from app.dialects.contract import Call
from app.errors import InvalidRequest, UnsupportedParameter, above
from app.types import Json

_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "length_penalty": (1,),
    "early_stopping": (False, "never"),
    "temperature": (0, 1),
    "top_p": (1,),
    "top_k": (-1, 0),
    "min_p": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "min_tokens": (0,),
    "stop": ([],),
    "logit_bias": ({},),
    "tools": ([],),
    "stream": (False,),
}
"""Fields -> the values that beam search leaves as they are; others it would ignore."""


_NO_EARLY_STOPPING: Json = {
    # One `enum` of several types is more than generators of clients take.
    "anyOf": [
        {"type": "boolean", "enum": [False]},
        {"type": "string", "enum": ["never"]},
        {"type": "null"},
    ]
}


class BeamFields(Body):
    use_beam_search: bool | None = None
    """Search with `best_of` beams (`n` without it; at least 2) instead of sampling. Refused with
    streams, stop strings, schemas, log-probabilities, tools and adapters. Default: false."""
    length_penalty: Annotated[float, Field(ge=-100, le=100)] | None = None
    """Of beam search. Only 1 is taken: the engine divides a beam's sum of log-probabilities by its
    length."""
    early_stopping: Annotated[Any, WithJsonSchema(_NO_EARLY_STOPPING)] = None
    """Of beam search. Only `false` and `never` are taken; they mean the same."""


def beam_width(body: BeamFields, call: Call, n: int, best_of: int | None = None) -> int | None:
    """How many beams; None: the request does not ask for beam search. Raises InvalidRequest."""
    if not body.use_beam_search:
        if body.length_penalty is not None or body.early_stopping is not None:
            for name in ("length_penalty", "early_stopping"):
                _check(body, name, f"'{name}' needs 'use_beam_search'.")
        return None
    if not call.model.info.searches_beams:
        raise UnsupportedParameter(
            "This server's engine does not search with beams.", param="use_beam_search"
        )
    scores = getattr(body, "logprobs", None)
    if scores is not None and scores is not False:  # 0 asks for them, too
        raise UnsupportedParameter(
            "The engine has no log-probabilities of beams.", param="logprobs"
        )
    if getattr(body, "max_tokens", None) == 0:
        raise InvalidRequest(
            "Invalid value for 'max_tokens': beam search needs at least 1.", param="max_tokens"
        )
    for name in _WITHOUT_EFFECT:
        _check(body, name, f"Beam search does not know this value of '{name}'.")
    if call.adapter is not None:
        raise UnsupportedParameter(
            "The engine does not search with beams through an adapter.", param="use_beam_search"
        )
    param, width = ("best_of", best_of) if best_of is not None else ("n", n)
    if width < max(2, n):
        raise InvalidRequest(
            f"Invalid value for '{param}': beam search needs at least {max(2, n)} beams.",
            param=param,
            code="integer_below_min_value",
        )
    if width > call.bounds.max_choices:
        raise above(param, call.bounds.max_choices)
    return width


def _check(body: BeamFields, name: str, problem: str) -> None:
    value = getattr(body, name, None)
    if value is None or any(value == harmless for harmless in _WITHOUT_EFFECT[name]):
        return
    raise UnsupportedParameter(problem, param=name)
