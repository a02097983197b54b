"""What the operator allows in one request: the part of the settings that the dialects see.

A bound is declared once, in the catalogue. The records here list the settings that they take, by
the same names. `bounds=` of a declaration names the fields of a request that the value bounds;
`le=` is what no operator can allow more of.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import msgspec

from app.settings.catalogue import DECLARATIONS, Settings


class GrammarBounds(msgspec.Struct, frozen=True, kw_only=True):
    """How large the schema or grammar of a client may be."""

    max_schema_bytes: int
    max_schema_depth: int
    max_schema_nodes: int
    max_schema_enum: int
    max_regex_chars: int
    max_regex_repeat: int


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator allows in one request."""

    max_choices: int
    max_prompts: int
    max_messages: int
    max_inputs: int
    max_json_depth: int
    max_json_nodes: int
    max_body_bytes: int | None
    max_tools: int
    max_stops: int
    max_stop_chars: int
    max_stop_token_ids: int
    max_logit_biases: int
    max_logprobs: int
    allow_grammars: bool
    template_kwargs: tuple[str, ...]
    reasoning_alias: bool
    stream_usage: bool
    cache_scope: Literal["all", "key", "session"]
    messages_thinking: Literal["off", "template"]
    responses_reasoning: Literal["auto", "text", "summary", "hidden"]
    media_max_images: int
    media_max_bytes: int
    grammar: GrammarBounds

    @classmethod
    def of(cls, settings: Settings) -> Self:
        grammar = GrammarBounds(**_taken(GrammarBounds, settings))
        return cls(**_taken(cls, settings), grammar=grammar)

    def by_request_field(self) -> dict[str, int]:
        """Field of a request -> the most that it may hold."""
        return {
            field: getattr(self, setting)
            for setting, declared in DECLARATIONS.items()
            for field in declared.bounds
        }


def hard_limit(setting: str) -> int:
    """The most that the operator can set. Raises ValueError for a setting without a limit."""
    limit = DECLARATIONS[setting].hard_limit
    if limit is None:
        raise ValueError(f"{setting} has no upper limit")
    return limit


def _taken(record: type[msgspec.Struct], settings: Settings) -> dict[str, Any]:
    names = record.__struct_fields__
    return {name: getattr(settings, name) for name in names if name in DECLARATIONS}
