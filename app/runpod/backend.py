"""What answers a job: this process's engine (local.py) or another server (upstream.py)."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal, Protocol

import msgspec

from app.dialects.contract import Reply
from app.gate import Ticket
from app.runpod.batches import Growth
from app.stats import RequestStats


class OutputForm(StrEnum):
    """The format of a job's output."""

    OPENAI = "openai"
    """What HTTP would carry: JSON, or the server-sent events of a stream."""
    VLLM = "vllm"
    """worker-vllm's `choices[].tokens` and `usage`."""


class JobRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The request that a job's input stands for."""

    route: str
    method: Literal["GET", "POST", "DELETE"]
    body: bytes
    form: OutputForm
    growth: Growth


class JobStats(msgspec.Struct, kw_only=True):
    """The id of one job and what is recorded while it is answered."""

    id: str
    """32 hexadecimal digits: its id in the engine. Never the platform's id, which may be any text:
    the engine aborts by prefix of an id."""
    request: RequestStats
    log_fields: dict[str, Any]
    """Fields of its end line in the log."""


class Backend(Protocol):
    def route_label(self, route: str) -> str:
        """The route's name in metrics, of which there are only a few."""

    async def answer(self, request: JobRequest, stats: JobStats, ticket: Ticket) -> Reply:
        """Answer one job, which has its place. Raises ServeError. Cancelling this call, or closing
        the stream that it returned, ends the work at once."""
