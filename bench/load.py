"""The loads: how many requests, of which kind, and how many at a time.

The numbers of requests make one load take about five seconds on two cores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bench import models


@dataclass(frozen=True)
class Load:
    name: str
    streams: int
    """Requests in flight at a time."""
    input_tokens: int
    output_tokens: int
    requests: int
    description: str
    stream: bool = True
    body: Mapping[str, Any] = field(default_factory=dict)
    answers: Literal["text", "call", "logprobs", "responses", "messages"] = "text"
    """The last two: of agents, whose sessions have several turns (sessions.py)."""

    @property
    def has_floor(self) -> bool:
        """Whether the engine alone can run this load."""
        return self.stream and not self.body and not self.is_sessions

    @property
    def is_sessions(self) -> bool:
        return self.answers in ("responses", "messages")


def _streams(streams: int, requests: int, output_tokens: int = 256) -> Load:
    description = f"{streams} streams, 32 tokens in, {output_tokens} out"
    return Load(str(streams), streams, 32, output_tokens, requests, description)


# The grammar ends the string by its length. After the call launch_server would let the model go on,
# so the load's logit_bias makes it end there.
_NOTE = {
    "type": "function",
    "function": {
        "name": "note",
        "description": "Keep a note.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {
                "text": {"type": "string", "minLength": 120, "maxLength": 120},
                "urgent": {"type": "boolean"},
            },
            "required": ["text", "urgent"],
            "additionalProperties": False,
        },
    },
}

_AGENTS: tuple[Literal["responses", "messages"], ...] = ("responses", "messages")
TINY = (
    _streams(1, 6),
    _streams(16, 48),
    _streams(64, 96),
    _streams(256, 256),
    Load("prefill", 64, 1024, 32, 128, "64 streams, 1024 tokens in, 32 out"),
    Load("whole", 64, 32, 64, 1024, "64 at a time, not streamed, 64 out", stream=False),
    Load(
        "tools", 16, 32, 256, 64, "16 streams, a required call under a grammar", answers="call",
        body={"tools": [_NOTE], "tool_choice": "required", "parallel_tool_calls": False,
              "ignore_eos": False, "logit_bias": {str(models.END_ID): 100}},
    ),
    Load(
        "logprobs", 16, 32, 64, 96, "16 streams, 64 out, top_logprobs 5", answers="logprobs",
        body={"logprobs": True, "top_logprobs": 5},
    ),
    *(Load(api, 8, 2000, 64, 160, f"8 sessions of 20 turns, /v1/{api}, with tools",
           answers=api) for api in _AGENTS),
)  # fmt: skip
DEMO = (_streams(1, 2, 64), _streams(16, 16, 64), _streams(64, 64, 32))
LOADS = {"tiny": TINY, "demo": DEMO}


def chosen(model: str, names: Sequence[str] | None = None) -> list[Load]:
    """Return the model's loads of these names, in the order of the table; None: all loads."""
    known = LOADS[model]
    if unknown := set(names or ()) - {load.name for load in known}:
        existing = ", ".join(load.name for load in known)
        raise ValueError(f"no load {', '.join(sorted(unknown))} for {model}; there are {existing}")
    return [load for load in known if names is None or load.name in names]
