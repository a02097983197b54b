"""The items of a Responses request as the messages of a conversation.

What the assistant said, thought and called between two turns of others is one message: a call of
its own for each of several parallel ones breaks templates. A tool's result follows the message that
called it, wherever the client has put it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import orjson

from app.dialects import attachments, tool_use
from app.dialects.attachments import NONE, Attached
from app.dialects.openai.responses.items import (
    UNSEEN,
    ClientCallItem,
    ClientResultItem,
    CompactionItem,
    CustomCallItem,
    FilePart,
    FunctionCallItem,
    IgnoredItem,
    Item,
    MessageItem,
    Part,
    PicturePart,
    ReasoningItem,
    ReferenceItem,
    ResultItem,
    ResultPart,
    ServedCallItem,
    ToolsItem,
)
from app.dialects.openai.responses.toolbox import Toolbox
from app.errors import InvalidRequest
from app.types import Message, Picture, Text, ToolCall
from app.types import Part as MessagePart

_Part: TypeAlias = Part | ResultPart | PicturePart | FilePart
FoundFile: TypeAlias = tuple[int, int, str, bool]
"""A file that is named: the places of the item and of its part, the id, whether it is a picture."""
Unseal = Callable[[str], str | None]
"""Opens sealed thinking; None if it cannot be."""


def messages(
    items: Sequence[Item],
    *,
    instructions: str | None,
    tools: Toolbox,
    unseal: Unseal,
    field_of: Callable[[int], str] = "input[{}]".format,
    sees: bool = False,
    current_turn: bool = False,
    attached: Attached = NONE,
) -> list[Message]:
    """Raises InvalidRequest for a call without its result, or the other way round.

    `instructions` and all that the system says before anyone else are one message. `field_of`: the
    field of the request that holds an item, by its place. `sees`: the model takes pictures.
    `current_turn`: thinking that precedes the last message of the user is left out. `attached`: the
    files that the items name.
    """
    answered = {each for item in items for each in _answered(item)}
    turns = _Turns(tools, unseal, sees=sees, answered=answered, attached=attached)
    last_user = max(
        (no for no, item in enumerate(items) if _is_of_user(item)),
        default=-1,
    )
    opening = [instructions] if instructions else []
    for no, item in enumerate(items):
        if isinstance(item, MessageItem) and item.role in ("system", "developer"):
            if turns.begun:
                turns.say(item, field_of(no))
            else:
                opening.append(_text(item.content or "", f"{field_of(no)}.content", attached))
        elif not (isinstance(item, ReasoningItem) and current_turn and no < last_user):
            turns.take(item, field_of(no))
    made = turns.end()
    if system := "\n\n".join(text for text in opening if text):
        made.insert(0, Message(role="system", parts=(Text(system),)))
    return made


class _Turns:
    """The messages after the opening, while the items are read."""

    def __init__(
        self,
        tools: Toolbox,
        unseal: Unseal,
        *,
        sees: bool,
        answered: set[str],
        attached: Attached,
    ) -> None:
        """`answered`: ids of calls that have a result."""
        self._tools = tools
        self._attached = attached
        self._sees = sees
        self._unseal = unseal
        self._answered = answered
        self._messages: list[Message] = []
        self._thoughts: list[str] = []
        self._texts: list[str] = []
        self._calls: list[ToolCall] = []
        self._callers: dict[str, int] = {}
        """Of each call: the place of its message."""
        self._call_ids: dict[str, str] = {}
        """Id of an item -> of its call: results of some tools name the item."""
        self._results: dict[int, list[Message]] = {}
        """By the place of the message that called."""
        self._open: dict[str, None] = {}
        """Calls without a result so far."""

    @property
    def begun(self) -> bool:
        return bool(self._messages or self._thoughts or self._texts or self._calls)

    def take(self, item: Item, field: str) -> None:
        match item:
            case MessageItem():
                self.say(item, field)
            case ReasoningItem():
                if thought := self._thought(item):
                    self._thoughts.append(thought)
            case FunctionCallItem() | CustomCallItem():
                # Cut off by the limit: it was never run.
                if item.status != "incomplete" or item.call_id in self._answered:
                    self._known_call(item)
            case ClientCallItem():
                action = orjson.dumps(item.action or item.operation or {}).decode()
                if item.id is not None:
                    self._call_ids[item.id] = item.call_id
                self._call(item.call_id, item.type.removesuffix("_call"), action)
            case ResultItem():
                field = f"{field}.output"
                parts = _parts(item.output, field, self._attached, unseen=not self._sees)
                self._result(item.call_id, parts)
            case ClientResultItem():
                id = item.call_id or self._call_ids.get(item.id or "") or item.id
                self._result(id, (Text(_as_text(item.output)),))
            case ServedCallItem():
                self._call(item.id, item.name, tool_use.as_object(item.arguments))
                self._result(item.id, (Text(item.output or _as_text(item.error)),))
            case ToolsItem() | IgnoredItem():
                pass
            case ReferenceItem() | CompactionItem():
                raise AssertionError("these are resolved or refused before")

    def say(self, item: MessageItem, field: str) -> None:
        if item.role == "assistant":
            if text := _text(item.content or "", f"{field}.content", self._attached):
                self._texts.append(text)
            return
        self._flush()
        self._thoughts = []  # of a turn that was cut off
        parts = _parts(item.content or "", f"{field}.content", self._attached)
        self._messages.append(Message(role=item.role, parts=parts))

    def end(self) -> list[Message]:
        self._flush(last=True)
        if self._open:
            raise InvalidRequest(
                f"No tool output found for function call {next(iter(self._open))[:100]}.",
                param="input",
            )
        made: list[Message] = []
        for place, message in enumerate(self._messages):
            made += (message, *self._results.get(place, ()))
        return made

    def _known_call(self, item: FunctionCallItem | CustomCallItem) -> None:
        if isinstance(item, FunctionCallItem):
            arguments = tool_use.as_object(item.arguments)
        else:
            arguments = tool_use.as_input(item.input)
        self._call(item.call_id, self._tools.shown(item.namespace, item.name), arguments)

    def _call(self, id: str, name: str, arguments: str) -> None:
        self._calls.append(ToolCall(id, name, arguments))
        self._open[id] = None
        self._callers.pop(id, None)

    def _result(self, id: str | None, parts: tuple[MessagePart, ...]) -> None:
        self._flush()
        if id is None and self._open:
            id = next(iter(self._open))
        if id is None or (place := self._callers.get(id)) is None:
            raise InvalidRequest(
                f"No tool call found for function call output with call_id {str(id)[:100]}.",
                param="input",
            )
        self._open.pop(id, None)
        result = Message(role="tool", parts=parts, tool_call_id=id)
        self._results.setdefault(place, []).append(result)

    def _flush(self, *, last: bool = False) -> None:
        """End the assistant's message, if it has said or called something."""
        if self._texts or self._calls or (last and self._thoughts):
            for call in self._calls:
                self._callers[call.id] = len(self._messages)
            self._messages.append(
                Message(
                    role="assistant",
                    parts=(Text("\n".join(self._texts)),) if self._texts else (),
                    calls=tuple(self._calls),
                    reasoning="\n".join(self._thoughts) or None,
                )
            )
            self._thoughts, self._texts, self._calls = [], [], []

    def _thought(self, item: ReasoningItem) -> str | None:
        if item.content:
            return _thought(item.content)
        if item.encrypted_content and (opened := self._unseal(item.encrypted_content)) is not None:
            return opened
        return _thought(item.summary or ())


def _answered(item: Item) -> tuple[str, ...]:
    return (item.call_id,) if isinstance(item, ResultItem) else ()


def _is_of_user(item: Item) -> bool:
    return isinstance(item, MessageItem) and item.role == "user"


def _thought(parts: Sequence[Part]) -> str:
    return "\n".join([part.text for part in parts])


def _text(content: str | Sequence[_Part], field: str, attached: Attached) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(
        [
            UNSEEN if isinstance(part, PicturePart) else _text_of(part, f"{field}[{no}]", attached)
            for no, part in enumerate(content)
        ]
    )


def _text_of(part: Part | ResultPart | FilePart, field: str, attached: Attached) -> str:
    if not isinstance(part, FilePart):
        return part.text
    return attachments.text(
        file_id=part.file_id,
        file_data=part.file_data,
        filename=part.filename,
        param=field,
        attached=attached,
    )


def _parts(
    content: str | Sequence[_Part], field: str, attached: Attached, *, unseen: bool = False
) -> tuple[MessagePart, ...]:
    """One text, but for pictures. `unseen`: of them the model is only told."""
    if (
        isinstance(content, str)
        or unseen
        or not any(isinstance(part, PicturePart) for part in content)
    ):
        return (Text(_text(content, field, attached)),)
    return tuple(
        [
            _picture(part, f"{field}[{no}]", attached)
            if isinstance(part, PicturePart)
            else Text(_text_of(part, f"{field}[{no}]", attached))
            for no, part in enumerate(content)
        ]
    )


def _picture(part: PicturePart, field: str, attached: Attached) -> Picture:
    detail = part.detail or "auto"
    if part.image_url is not None:
        return Picture(part.image_url, f"{field}.image_url", detail)
    if part.file_id is not None:
        return Picture(attached.pictures[part.file_id], f"{field}.file_id", detail)
    raise InvalidRequest(
        f"Missing required parameter: '{field}.image_url'.",
        param=f"{field}.image_url",
        code="missing_required_parameter",
    )


def named_files(items: Sequence[Item]) -> list[FoundFile]:
    named: list[FoundFile] = []
    at = -1
    for item in items:
        at += 1
        if item.__class__ is MessageItem and item.content.__class__ is list:
            for no, part in enumerate(item.content):
                is_picture = isinstance(part, PicturePart)
                if is_picture and (part.image_url is not None or item.role == "assistant"):
                    continue
                if isinstance(part, PicturePart | FilePart) and part.file_id is not None:
                    named.append((at, no, part.file_id, is_picture))
    return named


def _as_text(output: Any) -> str:
    """What a tool of OpenAI's own kind answered, as text."""
    if isinstance(output, str):
        return output
    return "" if output is None else orjson.dumps(output).decode()
