"""Conversations for templates that do not take them as they are.

Agents send two messages of the user in a row, several calls in one message, text beside calls, and
a word of the user right after a result. Of seventy templates that were looked at, four want the
user and the assistant to alternate, and refuse; three take a message's only call, and refuse; three
show the first call of several (gpt-oss is one) and three no call at all, without a word; twelve
drop the text beside a call. What a template does is tried once, with marked messages; where it
refuses or loses something, the conversation is written so that it reads all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile

import msgspec

from app.engine.system_turns import joined
from app.types import Message, Role, Text, Tool, ToolCall, texts

Messages = Sequence[Message]
Render = Callable[[list[Message]], str | None]
"""A conversation as text; None if the template refuses it."""

_replace = msgspec.structs.replace
_BETWEEN: dict[Role, Message] = {
    "assistant": Message(role="assistant", parts=(Text("OK."),)),
    "user": Message(role="user", parts=(Text("Hello."),)),
}
"""What stands where a template wants a turn that nobody took."""


class TurnShapes(msgspec.Struct, frozen=True):
    """What has to be done to a conversation."""

    alternate: bool = False
    """Messages of one role in a row become one, and a turn that is missing is filled."""
    split_calls: bool = False
    """Several calls in a message become a message each, with its result after it."""
    split_text: bool = False
    """The text beside calls becomes a message before them."""
    write_calls: bool = False
    """Calls become text."""

    @classmethod
    def tried(cls, render: Render, *, calls: bool) -> TurnShapes:
        """`calls`: the template is shown calls, and with them `TOOLS`."""

        def keeps(messages: Messages) -> bool:
            text = render(list(messages))
            return text is not None and all(mark in text for mark in _marks(messages))

        def helps(change: Callable[[Messages], list[Message]], *tries: Messages) -> bool:
            """Whether something is lost as it is, and nothing with the change."""
            return not all(map(keeps, tries)) and all(keeps(change(each)) for each in tries)

        write = calls and helps(lambda turns: written(turns, _marked), CALLED)
        calls = calls and not write
        split_calls = calls and helps(_with_single_calls, _CALLED_TWICE)
        # Some drop it only once the user has asked something else, as they drop thoughts.
        spoken = _SPOKEN_AND_CALLED, _SPOKEN_AND_ASKED
        split_text = calls and not keeps(spoken[0]) and helps(_with_text_apart, *spoken)
        shapes = [list(each) for each in (*_IN_A_ROW, *(_AFTER_CALLS if calls else ()))]
        refuses = any(render(each) is None for each in shapes)
        alternate = refuses and all(render(_alternating(each)) is not None for each in shapes)
        return cls(alternate, split_calls, split_text, write)

    def fitted(self, messages: list[Message], write: Callable[[ToolCall], str]) -> list[Message]:
        """The conversation as the template reads all of it. `write`: a call as text."""
        if self.write_calls:
            messages = written(messages, write)
        if self.split_calls:
            messages = _with_single_calls(messages)
        if self.split_text:
            messages = _with_text_apart(messages)
        return _alternating(messages) if self.alternate else messages


def written(messages: Messages, write: Callable[[ToolCall], str]) -> list[Message]:
    """Calls as text after the text of their messages."""
    return [_written(each, write) if each.calls else each for each in messages]


def _written(message: Message, write: Callable[[ToolCall], str]) -> Message:
    lines = [*texts(message.parts), *map(write, message.calls)]
    others = [part for part in message.parts if not isinstance(part, Text)]
    return _replace(message, parts=(*others, Text("\n".join(lines))), calls=())


def _with_single_calls(messages: Messages) -> list[Message]:
    """Each call in a message of its own, before its results; a result whose call is not there stays
    behind the others."""
    single: list[Message] = []
    at = 0
    while at < len(messages):
        message = messages[at]
        at += 1
        if len(message.calls) < 2:
            single.append(message)
            continue
        results = list(takewhile(lambda each: each.role == "tool", messages[at:]))
        at += len(results)
        for no, call in enumerate(message.calls):
            own = [each for each in results if each.tool_call_id == call.id]
            results = [each for each in results if each.tool_call_id != call.id]
            bare = message if no == 0 else Message(role="assistant")
            single += [_replace(bare, calls=(call,)), *own]
        single += results
    return single


def _with_text_apart(messages: Messages) -> list[Message]:
    apart: list[Message] = []
    for message in messages:
        if message.calls and any(texts(message.parts)):
            apart += [_replace(message, calls=()), Message(role="assistant", calls=message.calls)]
        else:
            apart.append(message)
    return apart


def _alternating(messages: Messages) -> list[Message]:
    """User and assistant in turn, as such templates count: without calls and their results."""
    turns: list[Message] = []
    counted: list[Role] = []
    for message in messages:
        role = message.role
        if role == "assistant" and not _says_anything(message) and message is not messages[-1]:
            continue
        if turns and turns[-1].role == role and role in _BETWEEN:
            last = turns.pop()
            if not last.calls:
                counted.pop()
            message = _merged(last, message)
        if role in _BETWEEN and not message.calls:
            before: Role = "assistant" if role == "user" else "user"
            if (counted[-1] if counted else "assistant") != before:
                turns.append(_BETWEEN[before])
                counted.append(before)
            counted.append(role)
        turns.append(message)
    return turns


def _says_anything(message: Message) -> bool:
    return bool(message.calls or message.reasoning or any(texts(message.parts)))


def _merged(first: Message, second: Message) -> Message:
    thoughts = [each for each in (first.reasoning, second.reasoning) if each]
    parts = joined(first, second).parts if first.parts and second.parts else ()
    return _replace(
        second,
        name=first.name if first.name == second.name else None,
        parts=parts or first.parts or second.parts,
        calls=first.calls + second.calls,
        reasoning="\n\n".join(thoughts) or None,
    )


# -- what is tried -------------------------------------------------------------------------------


def _said(role: Role, text: str, *calls: ToolCall) -> Message:
    return Message(role=role, parts=(Text(text),), calls=calls)


def _result(no: int) -> Message:
    return Message(role="tool", parts=(Text(f"result mark {no}"),), tool_call_id=_CALLS[no].id)


TOOLS = tuple(
    Tool(
        name=f"{name}_tool",
        description="Takes a mark.",
        parameters={
            "type": "object",
            "properties": {"mark": {"type": "string", "description": "The mark."}},
            "required": ["mark"],
        },
    )
    for name in ("first", "second")
)
"""Those that are called in what is tried."""
_CALLS = [
    ToolCall(f"call_{no:024}", tool.name, f'{{"mark": "call mark {no}"}}')
    for no, tool in enumerate(TOOLS)
]
_ASKED, _MORE = _said("user", "user mark 1"), _said("user", "user mark 2")
_ANSWERED, _ANSWERED_MORE = (_said("assistant", f"assistant mark {no}") for no in (1, 2))
_CALLING = Message(role="assistant", calls=(_CALLS[0],))
CALLED: Messages = (_ASKED, _CALLING, _result(0))
_CALLED_TWICE = (
    _ASKED, Message(role="assistant", calls=tuple(_CALLS)), _result(0), _result(1),
)  # fmt: skip
_SPOKEN_AND_CALLED = (_ASKED, _said("assistant", "assistant mark 3", _CALLS[0]), _result(0))
_SPOKEN_AND_ASKED = (*_SPOKEN_AND_CALLED, _ANSWERED, _MORE)
_IN_A_ROW: tuple[Messages, ...] = (
    (_ASKED, _MORE),
    (_ASKED, _ANSWERED, _ANSWERED_MORE, _MORE),
    (_ANSWERED, _ASKED),
    (_ASKED, Message(role="assistant"), _MORE),
)
_AFTER_CALLS: tuple[Messages, ...] = (
    (*CALLED, _MORE),
    (_ASKED, _CALLING, _MORE),
    (_ASKED, _ANSWERED, _CALLING, _result(0), _ANSWERED_MORE, _MORE),
)


def _marks(messages: Iterable[Message]) -> list[str]:
    said = [text for message in messages for text in texts(message.parts)]
    return said + [f"call mark {_CALLS.index(call)}" for each in messages for call in each.calls]


def _marked(call: ToolCall) -> str:
    return call.arguments
