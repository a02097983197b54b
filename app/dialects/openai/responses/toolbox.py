"""The tools of a Responses request by the names that the model sees, and back.

A namespace's tool is shown to the model as `namespace__name`. In an answer its call has the two
apart again: Codex knows a tool by both. The names are looked up, never split: either may have `__`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from app.dialects import tool_use
from app.dialects.openai.responses.tool_models import (
    Allowed,
    AllowedTools,
    AnyTool,
    Chosen,
    CustomTool,
    FunctionTool,
    HostedTool,
    Namespace,
)
from app.errors import InvalidRequest, too_many
from app.grammars.bounds import check_schema
from app.settings.bounds import Bounds
from app.types import Json, Tool, ToolUse

_LONGEST = 128


class Toolbox:
    """All tools of one request."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._definitions: list[tuple[FunctionTool | CustomTool, str, str]] = []
        """Each with the name that the model sees, and its request field."""
        self._shown: dict[tuple[str | None, str], str] = {}
        """(namespace, name) -> the name that the model sees."""
        self.owners: dict[str, tuple[str | None, str]] = {}
        """The name that the model sees -> (namespace, name) of a call in an answer."""
        self.echo: list[Json] = []
        """The request's tools, as a response repeats them."""

    def add(self, tools: Sequence[AnyTool], param: str) -> None:
        """`param`: the request field that lists them. Raises InvalidRequest for a doubled name."""
        for tool, namespace, place in self._members(tools, param):
            if (namespace, tool.name) in self._shown:
                raise InvalidRequest(
                    f"Invalid value for '{place}': the name '{tool.name}' is used twice.",
                    param=place,
                )
            self._add(tool, namespace, place)
        for no, listed in enumerate(tools):
            if isinstance(listed, HostedTool):
                check_schema(listed.echo, self._bounds.grammar, param=f"{param}[{no}]")
            self.echo.append(listed.echo)

    def add_more(self, tools: Sequence[AnyTool], param: str) -> None:
        """Tools that an item of the conversation lists, which may have been listed before."""
        for tool, namespace, place in self._members(tools, param):
            if (namespace, tool.name) not in self._shown:
                self._add(tool, namespace, place)

    def _members(
        self, tools: Sequence[AnyTool], param: str
    ) -> Iterator[tuple[FunctionTool | CustomTool, str | None, str]]:
        """Each tool that the model may see, its namespace and its request field."""
        for no, tool in enumerate(tools):
            match tool:
                case Namespace(name=namespace, tools=members):
                    for member_no, member in enumerate(members):
                        yield member, namespace, f"{param}[{no}].tools[{member_no}]"
                case HostedTool():
                    pass
                case _:
                    yield tool, None, f"{param}[{no}]"

    def _add(self, tool: FunctionTool | CustomTool, namespace: str | None, param: str) -> None:
        if len(self._definitions) >= self._bounds.max_tools:
            raise too_many("tools", self._bounds.max_tools)
        shown = self._free(tool.name if namespace is None else f"{namespace}__{tool.name}")
        self._shown[namespace, tool.name] = shown
        self.owners[shown] = (namespace, tool.name)
        self._definitions.append((tool, shown, param))

    def _free(self, name: str) -> str:
        free, no = _short(name), 1
        while free in self.owners:
            no += 1
            free = _short(f"{name}_{no}")
        return free

    def shown(self, namespace: str | None, name: str) -> str:
        """The name by which the model knows a tool, also one that is not offered any more."""
        if (shown := self._shown.get((namespace, name))) is not None:
            return shown
        return name if namespace is None else f"{namespace}__{name}"

    def use(
        self,
        choice: str | Chosen | AllowedTools | None,
        parallel: bool | None,
        *,
        formatted: bool,
    ) -> ToolUse | None:
        """The tools that the model may call; None if it may call none. Raises InvalidRequest.

        `formatted`: a grammar constrains the answer, and so the calls.
        """
        compiled = formatted or choice not in (None, "none", "auto")
        tools = [_tool(*each, bounds=self._bounds, compiled=compiled) for each in self._definitions]
        allowed, required, named = self._allowed(choice, [tool.name for tool in tools])
        if choice == "none" or not (allowed or required):
            return None
        if not allowed:
            raise InvalidRequest(
                "'tool_choice' requires a call, but 'tools' has none that this server can offer.",
                param="tool_choice",
            )
        return tool_use.use(
            tools, allowed=allowed, required=required, named=named, parallel=parallel
        )

    def _allowed(
        self, choice: str | Chosen | AllowedTools | None, names: list[str]
    ) -> tuple[list[str], bool, bool]:
        """Returns (names of tools that may be called, one must be called, the client named it)."""
        match choice:
            case Chosen():
                return [self._known(choice, "tool_choice")], True, True
            case AllowedTools(mode=mode, tools=tools):
                known = [
                    self._known(each, f"tool_choice.tools[{no}]")
                    for no, each in enumerate(tools)
                    if each.type in ("function", "custom")
                ]
                return known, mode == "required", False
            case _:
                return names, choice == "required", False

    def _known(self, choice: Chosen | Allowed, param: str) -> str:
        if (shown := self._shown.get((choice.namespace, choice.name or ""))) is not None:
            return shown
        alike = [shown for (_, name), shown in self._shown.items() if name == choice.name]
        if choice.namespace is None and len(alike) == 1:
            return alike[0]
        raise InvalidRequest(
            f"Invalid value for '{param}': there is no tool of that name in 'tools'.", param=param
        )


def _short(name: str) -> str:
    if len(name) <= _LONGEST:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{name[: _LONGEST - 13]}_{digest}"


def _tool(
    tool: FunctionTool | CustomTool, shown: str, param: str, *, bounds: Bounds, compiled: bool
) -> Tool:
    options: dict[str, Any] = {"description": tool.description, "bounds": bounds}
    if isinstance(tool, FunctionTool):
        return tool_use.function(
            shown,
            parameters=tool.parameters,
            strict=tool.strict,
            param=f"{param}.parameters",
            compiled=compiled,
            **options,
        )
    format = tool.format
    return tool_use.freeform(
        shown,
        syntax=format.syntax if format else None,
        definition=(format.definition if format else None) or "",
        param=f"{param}.format.definition",
        **options,
    )
