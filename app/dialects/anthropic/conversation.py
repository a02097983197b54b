"""The turns of a Messages request as the messages of a conversation.

What the API leaves open is put into the one order that templates expect: a tool's result right
after the message that called it, in the order of the calls; and a system message in the middle
stays at its place, as a part of what stands before it, so that the prompt of one request begins
with that of the request before and is found in the prefix cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import msgspec
import orjson

from app.dialects import tool_use
from app.dialects.anthropic.blocks import (
    Block,
    CompactionBlock,
    DocumentBlock,
    OtherBlock,
    ReferenceBlock,
    ResultBlock,
    SearchBlock,
    ServerResultBlock,
    TextBlock,
    ThinkingBlock,
    UseBlock,
)
from app.dialects.anthropic.body import Turn
from app.types import Message, Text, ToolCall

_BILLING = "x-anthropic-billing-header"
"""Begins a block that Claude Code puts in front. It differs between sessions and means nothing to a
model: with it no session would find another's prompt in the cache."""
_REMINDER = "<system-reminder>\n{}\n</system-reminder>"


def messages(system: str | Sequence[TextBlock] | None, turns: Sequence[Turn]) -> list[Message]:
    opening = _system(system)
    first = next((no for no, turn in enumerate(turns) if turn.role != "system"), len(turns))
    opening += [_text(_blocks(turn)) for turn in turns[:first]]
    conversation = _Conversation()
    for role, group in groupby(turns[first:], key=lambda turn: turn.role):
        blocks = [block for turn in group for block in _blocks(turn)]
        match role:
            case "user":
                conversation.user(blocks)
            case "assistant":
                conversation.assistant(blocks)
            case _:
                conversation.system(_text(blocks))
    made = conversation.end()
    if text := "\n\n".join(filter(None, opening)):
        made.insert(0, Message(role="system", parts=(Text(text),)))
    return made


class _Conversation:
    """The messages so far."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._waiting: list[str] = []
        """System messages that become part of what comes next."""

    def user(self, blocks: Sequence[Block]) -> None:
        results = [block for block in blocks if isinstance(block, ResultBlock)]
        for result in self._sorted(results):
            self._messages.append(
                Message(role="tool", parts=(Text(result.text),), tool_call_id=result.tool_use_id)
            )
        if results and self._waiting:
            self._append(self._waiting)
            self._waiting = []
        texts = [*self._waiting, *_texts(blocks)]
        self._waiting = []
        if texts or not results:
            self._messages.append(Message(role="user", parts=(Text("\n".join(texts)),)))

    def assistant(self, blocks: Sequence[Block]) -> None:
        """Results of a server's tools stand among the assistant's blocks: each ends a message."""
        part: list[Block] = []
        for block in blocks:
            if isinstance(block, CompactionBlock):
                # All before it is what it tells.
                self._messages, part = [], []
                summary = Message(role="user", parts=(Text(block.content or ""),))
                self._messages.append(summary)
            elif isinstance(block, ServerResultBlock):
                self._say(part)
                part = []
                self._messages.append(
                    Message(role="tool", parts=(Text(block.text),), tool_call_id=block.tool_use_id)
                )
            else:
                part.append(block)
        self._say(part)

    def system(self, text: str) -> None:
        if not text:
            return
        if "<system-reminder>" not in text:
            text = _REMINDER.format(text)
        if self._messages and self._messages[-1].role in ("user", "tool"):
            self._append([text])
        else:
            self._waiting.append(text)

    def end(self) -> list[Message]:
        if self._waiting:
            self._messages.append(Message(role="user", parts=(Text("\n".join(self._waiting)),)))
        return self._messages

    def _say(self, blocks: Sequence[Block]) -> None:
        text = "".join(_texts(blocks))
        thoughts = [block.thinking for block in blocks if isinstance(block, ThinkingBlock)]
        calls = [_call(block) for block in blocks if isinstance(block, UseBlock)]
        reasoning = "\n".join(filter(None, thoughts)) or None
        if text or calls or reasoning:
            self._messages.append(
                Message(
                    role="assistant",
                    parts=(Text(text),) if text else (),
                    calls=tuple(calls),
                    reasoning=reasoning,
                )
            )

    def _append(self, texts: Sequence[str]) -> None:
        last = self._messages[-1]
        text = "\n".join([*(part.text for part in last.parts), *texts])
        self._messages[-1] = msgspec.structs.replace(last, parts=(Text(text),))

    def _sorted(self, results: list[ResultBlock]) -> list[ResultBlock]:
        """In the order of the calls: Claude Code sends them as the tools have ended, and templates
        without ids take them by their order."""
        last = self._messages[-1] if self._messages else None
        order = {call.id: no for no, call in enumerate(last.calls)} if last else {}
        return sorted(results, key=lambda result: order.get(result.tool_use_id, len(order)))


def referenced(turns: Sequence[Turn]) -> set[str]:
    """Names of the tools that a search has found."""
    parts: list[Any] = []
    for turn in turns:
        for block in _blocks(turn):
            parts.append(block)
            if isinstance(block, ResultBlock) and isinstance(block.content, list):
                parts += block.content
    return {part.tool_name for part in parts if isinstance(part, ReferenceBlock)}


def _system(system: str | Sequence[TextBlock] | None) -> list[str]:
    if system is None:
        return []
    if isinstance(system, str):
        first, _, rest = system.partition("\n")
        return [rest if first.startswith(_BILLING) else system]
    return [block.text for block in system if not block.text.startswith(_BILLING)]


def _blocks(turn: Turn) -> Sequence[Any]:
    content = turn.content
    return (TextBlock(type="text", text=content),) if isinstance(content, str) else content


def _texts(blocks: Iterable[Block]) -> list[str]:
    """What of the blocks is text: an empty block is none."""
    texts: list[str] = []
    for block in blocks:
        match block:
            case TextBlock() | DocumentBlock() | SearchBlock() | ReferenceBlock():
                if block.text:
                    texts.append(block.text)
            case ServerResultBlock() | CompactionBlock() | OtherBlock():
                pass
            case ThinkingBlock() | UseBlock() | ResultBlock():
                pass
    return texts


def _text(blocks: Iterable[Block]) -> str:
    return "\n".join(_texts(blocks))


def _call(block: UseBlock) -> ToolCall:
    if isinstance(block.input, dict):
        arguments = orjson.dumps(block.input).decode()
    elif isinstance(block.input, str):
        arguments = tool_use.as_input(block.input)
    else:
        arguments = "{}" if block.input is None else orjson.dumps({"input": block.input}).decode()
    return ToolCall(block.id, block.name, arguments)
