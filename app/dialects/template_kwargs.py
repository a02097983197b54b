"""Variables of the chat template that a request may set."""

from __future__ import annotations

from typing import Any, Protocol

from app.errors import InvalidRequest, UnsupportedParameter
from app.settings.bounds import Bounds

_MAX_WORD = 64


class Reasoning(Protocol):
    """OpenRouter's object, in the dialects that take it."""

    @property
    def effort(self) -> str | None: ...

    @property
    def max_tokens(self) -> int | None: ...

    @property
    def enabled(self) -> bool | None: ...


def thinking_switch(reasoning: Reasoning | None, enable_thinking: bool | None) -> bool | None:
    """Whether the model shall think, if the request says so. A budget says so, too."""
    if reasoning is not None and reasoning.enabled is not None:
        return reasoning.enabled
    budget = reasoning is not None and reasoning.effort != "none" and reasoning.max_tokens
    return True if budget and enable_thinking is None else enable_thinking


def template_kwargs(
    variables: dict[str, Any] | None, bounds: Bounds, *, thinks: bool | None
) -> dict[str, bool | str]:
    """`variables`: the request's `chat_template_kwargs`. `thinks`: its switch for thinking, if it
    has one. Raises InvalidRequest for a variable that the operator has not allowed."""
    kwargs: dict[str, bool | str] = {}
    if thinks is not None:
        kwargs |= {"enable_thinking": thinks, "thinking": thinks}  # templates use either name
    for name, value in (variables or {}).items():
        if name not in bounds.template_kwargs:
            allowed = ", ".join(sorted(bounds.template_kwargs))
            raise UnsupportedParameter(
                f"chat_template_kwargs takes {allowed} here (ALLOWED_TEMPLATE_KWARGS).",
                param="chat_template_kwargs",
            )
        if not isinstance(value, bool) and not (isinstance(value, str) and len(value) <= _MAX_WORD):
            raise InvalidRequest(
                f"Invalid type for 'chat_template_kwargs.{name}': expected a boolean or a word of "
                f"at most {_MAX_WORD} characters.",
                param=f"chat_template_kwargs.{name}",
                code="invalid_type",
            )
        kwargs[name] = value
    return kwargs
