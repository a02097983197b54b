"""How much the model thinks before it answers a chat: each vendor's field for it.

Source: `reasoning_effort` OpenAI's; `reasoning` OpenRouter's; `thinking` DeepSeek's and GLM's;
`enable_thinking` and `thinking_budget` DashScope's; read 2026-11.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from app.dialects.body import Body, Unsupported
from app.dialects.template_kwargs import thinking_switch
from app.engine.base import EngineInfo
from app.generation import limits

Tokens = Annotated[int, Field(ge=0, lt=2**31)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ReasoningOptions(Body):
    """OpenRouter's form of `reasoning_effort`."""

    unsupported: ClassVar[Unsupported] = {"exclude": (False,)}

    effort: Effort | None = None
    max_tokens: Tokens | None = None
    enabled: bool | None = None


class Thinking(Body):
    """DeepSeek's and GLM's switch."""

    type: Literal["enabled", "disabled"]
    budget_tokens: Tokens | None = None


class ThinkingFields(Body):
    reasoning_effort: Effort | None = None
    reasoning: ReasoningOptions | None = None
    thinking: Thinking | None = None
    enable_thinking: bool | None = None
    thinking_budget: Tokens | None = None
    """DashScope's, and SGLang's by another name."""
    max_thinking_tokens: Tokens | None = None

    @property
    def effort(self) -> str | None:
        if self.reasoning_effort is not None or self.reasoning is None:
            return self.reasoning_effort
        return self.reasoning.effort

    @property
    def thinks(self) -> bool | None:
        """Whether the model shall think, if the request says so."""
        if self.thinking is not None:
            return self.thinking.type == "enabled"
        return thinking_switch(self.reasoning, self.enable_thinking)

    def budget(self, info: EngineInfo) -> int | None:
        """How many tokens the model may think. Raises InvalidRequest."""
        asked = {
            "thinking.budget_tokens": self.thinking.budget_tokens if self.thinking else None,
            "reasoning.max_tokens": self.reasoning.max_tokens if self.reasoning else None,
            "thinking_budget": self.thinking_budget,
            "max_thinking_tokens": self.max_thinking_tokens,
        }
        for param, budget in asked.items():
            if budget is not None:
                limits.check_budget(budget, info, param=param)
                return budget
        return None
