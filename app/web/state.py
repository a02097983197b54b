"""What the web layer shares: one `Serving` per application."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from starlette.requests import Request

from app.core.grammars import GrammarBounds
from app.core.host import ModelHost
from app.core.model import ServedModel
from app.core.probe import Probe
from app.dialects.base import Bounds
from app.engine.base import Engine
from app.errors import NotReady
from app.lifecycle import Gate, Lifecycle
from app.metrics import LoopLag, Metrics
from app.settings import Settings


@dataclass(frozen=True)
class Serving:
    settings: Settings
    lifecycle: Lifecycle
    gate: Gate
    host: ModelHost
    lag: LoopLag
    metrics: Metrics | None

    def loaded(self) -> tuple[Engine, ServedModel]:
        """Raises Unavailable before the model is ready and after the engine's end, not in a
        drain."""
        engine, model = self.host.engine, self.host.model
        if engine is None or model is None or self.lifecycle.ended:
            raise self.lifecycle.refusal() or NotReady("The model is not ready yet.")
        return engine, model

    @cached_property
    def probe(self) -> Probe:
        return Probe(self.host, self.lifecycle)

    @cached_property
    def bounds(self) -> Bounds:
        return Bounds(
            max_choices=self.settings.max_choices,
            max_prompts=self.settings.max_prompts,
            max_messages=self.settings.max_messages,
            max_inputs=self.settings.max_inputs,
            max_json_depth=self.settings.max_json_depth,
            max_json_nodes=self.settings.max_json_nodes,
            max_tools=self.settings.max_tools,
            max_stops=self.settings.max_stops,
            max_stop_chars=self.settings.max_stop_chars,
            max_stop_token_ids=self.settings.max_stop_token_ids,
            max_logit_biases=self.settings.max_logit_biases,
            allow_grammars=self.settings.allow_grammars,
            grammar=self.grammar_bounds,
            template_kwargs=frozenset(self.settings.template_kwargs),
            reasoning_alias=self.settings.reasoning_alias,
        )

    @property
    def grammar_bounds(self) -> GrammarBounds:
        return GrammarBounds(
            max_bytes=self.settings.max_schema_bytes,
            max_depth=self.settings.max_schema_depth,
            max_nodes=self.settings.max_schema_nodes,
            max_enum=self.settings.max_schema_enum,
            max_regex_chars=self.settings.max_regex_chars,
            max_repeat=self.settings.max_regex_repeat,
        )


def serving_of(request: Request) -> Serving:
    serving: Serving = request.app.state.serving
    return serving
