"""The one seam of the worker: whoever answers a job, this process's engine or another server."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal, Protocol

import msgspec

from app.dialects.contract import Reply
from app.runpod.batches import Growth
from app.stats import RequestStats


class OutputForm(StrEnum):
    """What a job's output looks like."""

    OPENAI = "openai"
    """JSON, or of a stream its server-sent events: whatever HTTP would carry."""
    VLLM = "vllm"
    """worker-vllm's `choices[].tokens` and `usage`."""


class JobRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A job's input as one request."""

    route: str
    method: Literal["GET", "POST"]
    body: bytes
    form: OutputForm
    growth: Growth


class JobStats(msgspec.Struct, kw_only=True):
    """What is known of one job while it is answered."""

    id: str
    """32 hexadecimal digits: the engine's name for it. Never the platform's, which may be anything;
    the engine aborts by prefix."""
    stats: RequestStats
    log_fields: dict[str, Any]
    """What the end line of the log says about it."""


class Backend(Protocol):
    def route_label(self, route: str) -> str:
        """The route for metrics: one of a few."""

    async def answer(self, ask: JobRequest, record: JobStats) -> Reply:
        """Answer one job. Raises ServeError. Cancelling it, or closing the stream that it returned,
        ends the work at once."""
