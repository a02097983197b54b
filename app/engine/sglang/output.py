"""What constrains an answer, and which reader takes it apart.

Written against sglang 0.5.23, `srt/function_call/function_call_parser.py`.
"""

from __future__ import annotations

import json
from typing import Any

from app.engine.required_calls import calls_grammar, constrained, schemas
from app.engine.sglang.functions import as_function
from app.engine.sglang.readers import SGLangThinking, call_parser, calls_reader
from app.errors import UnsupportedParameter
from app.grammars.lark import unknown_format
from app.logs.setup import log
from app.reading.harmony import Harmony
from app.reading.json_calls import CallArray
from app.reading.pieces import (
    Chain,
    Reader,
)
from app.types import Grammar, Json, Tool, ToolUse

FALLBACK = "hermes"
"""For models whose template knows no tools: engine/sglang/chat.py describes them in this format."""


class AnswerFormat:
    """The form of one request's answers: what constrains them, and how they are read."""

    def __init__(
        self,
        *,
        tool_call_parser: str | None,
        reasoning_parser: str | None,
        use: ToolUse | None,
        thinking: bool,
        grammar: Grammar | None,
        enforces_tags: bool = True,
    ) -> None:
        """`enforces_tags`: the engine takes grammars in the model's own format of calls."""
        self._enforces_tags = enforces_tags
        self._format = tool_call_parser or FALLBACK
        self._native_format = tool_call_parser is not None
        self._reasoning = reasoning_parser
        self._use = use
        self._thinking = thinking
        self._as_array = False
        self.grammar = grammar
        """The grammar that the engine must enforce; None: there is none."""
        if use is not None:
            # Without tools a text that looks like a call must stay text.
            self._tools = [_tool(tool, strict=tool.strict) for tool in use.callable]
            self._constrain(use)

    def reader(self) -> Reader | None:
        """A new reader for one choice; None if its text needs no reading."""
        calls: Reader | None = None
        if self._use is not None:
            calls = CallArray() if self._as_array else calls_reader(self._format, self._tools)
        if "gpt-oss" in (self._reasoning, self._format) and not self._as_array:
            return Harmony(calls=self._use is not None)
        if self._reasoning is None:
            return calls
        return Chain(
            SGLangThinking(self._reasoning, forced=self._thinking, calls_follow=calls is not None),
            calls,
        )

    def _constrain(self, use: ToolUse) -> None:
        if not use.required:
            strict = any(tool.strict for tool in use.callable)
            if self.grammar is not None:
                self.grammar = self._calls_or_answer(self.grammar, use)
            elif strict:
                self.grammar = self._native(use, "auto", strict=False)
            return
        # The whole answer is the call: a response format has nothing left to apply to.
        self.grammar = self._native(use, "required", strict=True) if self._native_format else None
        if self.grammar is None:
            self.grammar = calls_grammar(use)
            self._as_array = True

    def _native(self, use: ToolUse, choice: str, *, strict: bool) -> Grammar | None:
        """SGLang's grammar in the model's own format, if it has one that can be enforced."""
        if not self._enforces_tags:
            return None
        tools = [_tool(tool, strict=strict or tool.strict) for tool in use.callable]
        parser = call_parser(self._format, tools)
        if parser.detector.parses_required_natively() and choice == "required":
            log.debug("no grammar for required calls in this format", format=self._format)
        constraint = parser.get_structure_constraint(choice, use.parallel, False)
        if constraint is None:
            return None
        kind, value = constraint
        if kind != "structural_tag":  # SGLang's own array of calls, and rules for xgrammar
            return None
        tag = value.model_dump(by_alias=True)
        if "structures" in tag:
            tag = {"type": "structural_tag", "format": _modern(tag, use, choice)}
        if (unknown := unknown_format(tag["format"])) is not None:
            log.debug("a format that cannot be enforced", format=self._format, type=unknown)
            return None
        return Grammar("structural_tag", json.dumps(tag), "tools", parts=schemas(use))

    def _calls_or_answer(self, answer: Grammar, use: ToolUse) -> Grammar:
        """Either calls, or an answer that follows the response format."""
        calls = self._native(use, "required", strict=True)
        if answer.kind != "json_schema" or calls is None or calls.kind != "structural_tag":
            raise UnsupportedParameter(
                "A response format together with tools is not supported for this model's way of "
                "calling tools.",
                param=answer.param,
            )
        tag = json.loads(calls.text)
        either = {
            "type": "or",
            "elements": [
                {"type": "json_schema", "json_schema": json.loads(answer.text)},
                tag["format"],
            ],
        }
        return Grammar(
            "structural_tag",
            json.dumps({"type": "structural_tag", "format": either}),
            answer.param,
            parts=((answer.param, answer.text), *calls.parts),
        )


def _modern(legacy: Json, use: ToolUse, choice: str) -> Json:
    """SGLang's legacy structural tag as xgrammar's own.

    That one can stand inside another, can be compiled on trial, and bounds the number of calls.
    """
    tags = [
        {
            "type": "tag",
            "begin": each["begin"],
            "content": {"type": "json_schema", "json_schema": each["schema"] or {}},
            "end": each["end"],
        }
        for each in legacy["structures"]
    ]
    if choice == "required":
        return {
            "type": "tags_with_separator",
            "separator": "\n",
            "at_least_one": True,
            "stop_after_first": use.named or not use.parallel,
            "tags": tags,
        }
    return {
        "type": "triggered_tags",
        "triggers": legacy["triggers"],
        "at_least_one": False,
        "stop_after_first": not use.parallel,
        "tags": tags,
    }


def _tool(tool: Tool, *, strict: bool) -> Any:
    from sglang.srt.entrypoints.openai.protocol import Tool as SGLangTool

    function = as_function(tool)
    function["function"]["strict"] = strict
    if not tool.strict and tool.parameters is not None:
        function["function"]["parameters"] = constrained(tool)
    return SGLangTool(**function)
