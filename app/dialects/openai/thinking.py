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
    """As `reasoning_effort`, which takes precedence."""
    max_tokens: Tokens | None = None
    """As `thinking_budget`, over which it takes precedence. It also switches the thinking on,
    unless `effort` is `none` or `enable_thinking` is set."""
    enabled: bool | None = None
    """Switch the thinking on or off, as far as the model's chat template can. It takes precedence
    over `enable_thinking`."""


class Thinking(Body):
    """DeepSeek's and GLM's switch."""

    type: Literal["enabled", "disabled"]
    """Switch the thinking on or off, as far as the model's chat template can."""
    budget_tokens: Tokens | None = None
    """As `thinking_budget`, over which it takes precedence."""


class ThinkingFields(Body):
    reasoning_effort: Effort | None = None
    """How much the model thinks before it answers; `none` is off. The chat template decides what
    follows; an effort that it refuses becomes the nearest one that it takes."""
    reasoning: ReasoningOptions | None = None
    """OpenRouter's form of `reasoning_effort` and `thinking_budget`."""
    thinking: Thinking | None = None
    """DeepSeek's and GLM's switch for the thinking. It takes precedence over `reasoning.enabled`
    and `enable_thinking`."""
    enable_thinking: bool | None = None
    """DashScope's switch for the thinking, honoured as far as the model's chat template can.
    Default: what the template does."""
    thinking_budget: Tokens | None = None
    """Most tokens of thinking; then the model has to answer. Refused for a model whose thinking
    ends with no marker of its own. Default: no bound."""
    max_thinking_tokens: Tokens | None = None
    """SGLang's name of `thinking_budget`, which takes precedence."""

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
