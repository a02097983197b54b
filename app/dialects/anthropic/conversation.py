"""The turns of a Messages request as the messages of a conversation.

What the API leaves open is put into the one order that templates expect: a tool's result right
after the message that called it, in the order of the calls; and a system message in the middle
stays at its place, as a part of what stands before it, so that the prompt of one request begins
with that of the request before and is found in the prefix cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, TypeAlias

import msgspec
import orjson

from app.dialects import tool_use
from app.dialects.anthropic.blocks import (
    Block,
    CompactionBlock,
    DocumentBlock,
    ImageBlock,
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
from app.types import Message, Part, Picture, Role, Text, ToolCall

_BILLING = "x-anthropic-billing-header"
"""Begins a block that Claude Code puts in front. It differs between sessions and means nothing to a
model: with it no session would find another's prompt in the cache."""
_REMINDER = "<system-reminder>\n{}\n</system-reminder>"


def messages(system: str | Sequence[TextBlock] | None, turns: Sequence[Turn]) -> list[Message]:
    opening = _system(system)
    first = next((no for no, turn in enumerate(turns) if turn.role != "system"), len(turns))
    opening += [_text(_blocks(turn)) for turn in turns[:first]]
    conversation = _Conversation()
    for role, group in groupby(_since_compaction(turns, first), key=lambda turn: turn[0]):
        blocks = [block for _, turn in group for block in turn]
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


class _Result(msgspec.Struct):
    """A tool's."""

    id: str
    parts: list[str | Picture]


_Said: TypeAlias = Block | Picture | _Result


def _since_compaction(turns: Sequence[Turn], first: int) -> list[tuple[str, Sequence[_Said]]]:
    """Role and blocks of each turn from the first on. All before a compaction is what it tells; one
    without a content has failed, and tells nothing."""
    kept: list[tuple[str, Sequence[_Said]]] = []
    for no, turn in enumerate(turns[first:], first):
        blocks = _blocks(turn)
        begin = 0
        for place, block in enumerate(blocks):
            if isinstance(block, CompactionBlock) and block.content:
                kept = [("user", (TextBlock(type="text", text=block.content),))]
                begin = place + 1
        kept.append(
            (
                turn.role,
                [
                    _placed(block, f"messages[{no}].content[{place}]")
                    for place, block in enumerate(blocks)
                    if place >= begin
                ],
            )
        )
    return kept


def _placed(block: Block, param: str) -> _Said:
    """With its pictures, which know their field. Raises InvalidRequest."""
    match block:
        case ImageBlock():
            return block.picture(f"{param}.image")
        case ResultBlock():
            return _Result(block.tool_use_id, block.parts(f"{param}.tool_result"))
        case _:
            return block


class _Conversation:
    """The messages so far, each with its texts, which are joined at the end."""

    def __init__(self) -> None:
        self._messages: list[tuple[Message, list[str | Picture]]] = []
        self._order: dict[str, int] = {}
        """Place of each call among those of the last message that called."""
        self._results: list[_Result] = []
        """Of those calls, so far."""
        self._waiting: list[str] = []
        """System messages, as a part of what comes next: of the results, else of the user's."""

    def user(self, blocks: Sequence[_Said]) -> None:
        self._results += [block for block in blocks if isinstance(block, _Result)]
        parts = _parts(blocks)
        if parts:
            self._end_results()
            self._add("user", [*self._taken(), *parts])
        elif not self._results:
            self._add("user", self._taken())

    def assistant(self, blocks: Sequence[_Said]) -> None:
        """Results of a server's tools stand among the assistant's blocks: each ends a message. What
        the client has to answer is called in the last one."""
        self._end_results()
        if self._waiting:
            self._add("user", self._taken())
        served = {block.tool_use_id for block in blocks if isinstance(block, ServerResultBlock)}
        calls = [each for each in blocks if isinstance(each, UseBlock) and each.id not in served]
        part: list[_Said] = []
        for block in blocks:
            if isinstance(block, ServerResultBlock):
                self._say(part)
                part = []
                self._add("tool", [block.text], tool_call_id=block.tool_use_id)
            elif not (isinstance(block, UseBlock) and block.id not in served):
                part.append(block)
        self._say([*part, *calls])

    def system(self, text: str) -> None:
        if not text:
            return
        if not text.lstrip().startswith("<system-reminder>"):
            text = _REMINDER.format(text)
        last = self._messages[-1] if self._messages else None
        if not self._results and last is not None and last[0].role in ("user", "tool"):
            last[1].append(text)
        else:
            self._waiting.append(text)

    def end(self) -> list[Message]:
        self._end_results()
        if self._waiting:
            self._add("user", self._taken())
        return [
            msgspec.structs.replace(message, parts=_joined(parts)) if parts else message
            for message, parts in self._messages
        ]

    def _end_results(self) -> None:
        """Results in the order of the calls: Claude Code sends them as the tools have ended, and
        templates without ids take them by their order."""
        results, self._results = self._results, []
        most = len(self._order)
        for result in sorted(results, key=lambda each: self._order.get(each.id, most)):
            self._add("tool", result.parts, tool_call_id=result.id)
        if results:
            self._messages[-1][1].extend(self._taken())

    def _say(self, blocks: Sequence[_Said]) -> None:
        text = "".join(_texts(blocks))
        thoughts = [block.thinking for block in blocks if isinstance(block, ThinkingBlock)]
        calls = [_call(block) for block in blocks if isinstance(block, UseBlock)]
        reasoning = "\n".join(filter(None, thoughts)) or None
        if calls:
            self._order = {call.id: no for no, call in enumerate(calls)}
        if text or calls or reasoning:
            texts = [text] if text else []
            self._add("assistant", texts, calls=tuple(calls), reasoning=reasoning)

    def _add(self, role: Role, parts: Sequence[str | Picture], **fields: Any) -> None:
        self._messages.append((Message(role=role, **fields), list(parts)))

    def _taken(self) -> list[str]:
        waiting, self._waiting = self._waiting, []
        return waiting


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


def _joined(parts: Sequence[str | Picture]) -> tuple[Part, ...]:
    """Texts that follow each other as one."""
    if not [part for part in parts if part.__class__ is Picture]:
        return (Text("\n".join(parts)),)  # type: ignore[arg-type]  # none is a picture
    joined: list[Part] = []
    for is_text, group in groupby(parts, key=lambda part: isinstance(part, str)):
        if is_text:
            joined.append(Text("\n".join(map(str, group))))
        else:
            joined += [part for part in group if isinstance(part, Picture)]
    return tuple(joined)


def _parts(blocks: Sequence[_Said]) -> list[str | Picture]:
    """Texts and pictures."""
    if not [block for block in blocks if block.__class__ is Picture]:
        return [*_texts(blocks)]
    parts: list[str | Picture] = []
    for block in blocks:
        parts += [block] if isinstance(block, Picture) else _texts([block])
    return parts


def _texts(blocks: Iterable[_Said]) -> list[str]:
    """What of the blocks is text: an empty block is none."""
    texts: list[str] = []
    for block in blocks:
        match block:
            case TextBlock() | DocumentBlock() | SearchBlock() | ReferenceBlock():
                if block.text:
                    texts.append(block.text)
            case ServerResultBlock() | CompactionBlock() | OtherBlock():
                pass
            case ThinkingBlock() | UseBlock() | ResultBlock() | ImageBlock():
                pass
            case Picture() | _Result():
                pass
    return texts


def _text(blocks: Iterable[_Said]) -> str:
    return "\n".join(_texts(blocks))


def _call(block: UseBlock) -> ToolCall:
    if isinstance(block.input, dict):
        arguments = orjson.dumps(block.input).decode()
    elif isinstance(block.input, str):
        arguments = tool_use.as_input(block.input)
    else:
        arguments = "{}" if block.input is None else orjson.dumps({"input": block.input}).decode()
    return ToolCall(block.id, block.name, arguments)
