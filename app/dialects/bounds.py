"""What the operator allows in one request."""

from __future__ import annotations

from typing import Self

import msgspec

from app.generation.grammars import GrammarBounds
from app.settings.catalogue import Settings


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator allows in one request."""

    max_choices: int
    max_prompts: int
    max_messages: int
    max_inputs: int
    """Texts in one request for embeddings."""
    max_json_depth: int
    max_json_nodes: int
    max_tools: int
    max_stops: int
    max_stop_chars: int
    max_stop_token_ids: int
    max_logit_biases: int
    max_logprobs: int
    """Alternatives to each token."""
    allow_grammars: bool
    """`regex`, `ebnf` and the like may be asked for, beside JSON schemas."""
    grammar: GrammarBounds
    template_kwargs: frozenset[str]
    """Switches of the chat template that a client may set."""
    reasoning_alias: bool
    """Answers carry the thinking as `reasoning`, too."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            max_choices=settings.max_choices,
            max_prompts=settings.max_prompts,
            max_messages=settings.max_messages,
            max_inputs=settings.max_inputs,
            max_json_depth=settings.max_json_depth,
            max_json_nodes=settings.max_json_nodes,
            max_tools=settings.max_tools,
            max_stops=settings.max_stops,
            max_stop_chars=settings.max_stop_chars,
            max_stop_token_ids=settings.max_stop_token_ids,
            max_logit_biases=settings.max_logit_biases,
            max_logprobs=settings.max_logprobs,
            allow_grammars=settings.allow_grammars,
            grammar=GrammarBounds(
                max_bytes=settings.max_schema_bytes,
                max_depth=settings.max_schema_depth,
                max_nodes=settings.max_schema_nodes,
                max_enum=settings.max_schema_enum,
                max_regex_chars=settings.max_regex_chars,
                max_repeat=settings.max_regex_repeat,
            ),
            template_kwargs=frozenset(settings.template_kwargs),
            reasoning_alias=settings.reasoning_alias,
        )
