"""Beam search in SGLang: whether it can be asked for, and what comes back.

A search is one request of the engine; its sequences come at its end, in a column of their own. Its
detokenizer has cut their stop tokens off. Written against sglang 0.5.23, `srt/beam_search/`.
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


def beam_chunks(column: Any, prompt_tokens: int, cached_tokens: int, choices: int) -> list[Chunk]:
    """The best sequences, each a choice. `column`: a row of `beam_search_output`. Raises
    InternalError."""
    sequences = column[-1] if column else []
    if len(sequences) != choices:
        raise InternalError("The engine found another number of sequences than was asked for.")
    chunks = []
    for no, sequence in enumerate(sequences):
        finish, matched = end_of(sequence["finish_reason"])
        ids = sequence["tokens"]
        chunks.append(
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
    return chunks


def refused() -> UnsupportedParameter:
    """SGLang's scheduler has refused a search."""
    return UnsupportedParameter(
        "The engine does not search with beams for this model, or not with what it is asked for "
        "here.",
        param="use_beam_search",
    )
