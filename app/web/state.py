"""What the web layer shares: one `Serving` per application."""

from __future__ import annotations

from dataclasses import dataclass

from app.core.host import ModelHost
from app.dialects.base import Bounds
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

    @property
    def bounds(self) -> Bounds:
        return Bounds(
            max_choices=self.settings.max_choices,
            max_prompts=self.settings.max_prompts,
            max_messages=self.settings.max_messages,
        )
