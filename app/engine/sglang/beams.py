"""Beam search in SGLang: whether it can be asked for, and what comes back.

A search is one request of the engine; its sequences come at its end, in a column of their own.
Written against sglang 0.5.23, `srt/beam_search/`.
"""

from __future__ import annotations

from typing import Any

from app.engine.base import Chunk
from app.engine.sglang.endings import end_of
from app.errors import InternalError, UnsupportedParameter


def searches_beams(options: dict[str, Any]) -> bool:
    """As far as SGLang's options say: for some models it refuses each request."""
    return (
        options["speculative_algorithm"] is None
        and options["page_size"] == 1
        and options["pp_size"] == 1
        and not options["enable_dp_attention"]
        and not options["enable_hierarchical_cache"]
        and not options["enable_lora"]  # its kernels count requests, and not their beams
    )


def sequences(column: Any, choices: int) -> list[dict[str, Any]]:
    """The best of a search. `column`: a row of `beam_search_output`. Raises InternalError."""
    found: list[dict[str, Any]] = column[-1] if column else []
    if len(found) != choices:
        raise InternalError("The engine found another number of sequences than was asked for.")
    return found


def tokens(column: Any) -> int:
    """Of all sequences of a row."""
    return sum(len(sequence["tokens"]) for sequence in column[-1]) if column else 0


def chunks(found: list[dict[str, Any]], prompt_tokens: int, cached_tokens: int) -> list[Chunk]:
    """Each sequence as a choice. Raises InternalError."""
    made = []
    for no, sequence in enumerate(found):
        finish, matched = end_of(sequence["finish_reason"])
        ids = sequence["tokens"]
        made.append(
            Chunk(
                no,
                sequence["text"],
                prompt_tokens,
                len(ids),
                cached_tokens,
                finish=finish,
                matched=matched,
                ids=ids,
            )
        )
    return made


def refused() -> UnsupportedParameter:
    """SGLang's scheduler has refused a search."""
    return UnsupportedParameter(
        "The engine does not search with beams for this model, or not with what it is asked for "
        "here.",
        param="use_beam_search",
    )
