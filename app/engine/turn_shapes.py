"""Conversations for templates that do not take them as they are.

Agents send two messages of the user in a row, several calls in one message, text beside calls, and
a word of the user right after a result. Of seventy templates that were looked at, four want the
user and the assistant to alternate, and refuse; three take a message's only call, and refuse; three
show the first call of several (gpt-oss is one) and three no call at all, without a word; twelve
drop the text beside a call. What a template does is tried once, with marked messages; where it
refuses or loses something, the conversation is written so that it reads all of it.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby, takewhile

import msgspec

from app.engine.system_turns import joined
from app.types import Message, Picture, Role, Text, Tool, ToolCall, texts

Messages = Sequence[Message]
Render = Callable[[list[Message]], str | None]
"""A conversation as text; None if the template refuses it."""

_replace = msgspec.structs.replace
_BETWEEN: dict[Role, Message] = {
    "assistant": Message(role="assistant", parts=(Text("OK."),)),
    "user": Message(role="user", parts=(Text("Hello."),)),
}
"""The message that is put in where a template wants one of this role, and there is none."""


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

        def mends(change: Callable[[Messages], list[Message]], *tries: Messages) -> bool:
            """Whether something is refused as it is and taken with the change, and never the other
            way round."""
            taken = [
                (render(list(each)) is not None, render(change(each)) is not None) for each in tries
            ]
            return (False, True) in taken and (True, False) not in taken

        write = calls and helps(lambda turns: calls_as_text(turns, _marked), CALLED)
        calls = calls and not write
        split_calls = calls and helps(_with_single_calls, _CALLED_TWICE)
        # One that shows the text until the user asks something else is left alone: to gpt-oss the
        # text beside a call is a thought.
        spoken = _SPOKEN_AND_CALLED, _SPOKEN_AND_ASKED
        split_text = calls and not keeps(spoken[0]) and helps(_with_text_apart, *spoken)
        shapes = [*_IN_A_ROW, *(_AFTER_CALLS if calls else ())]
        return cls(mends(_alternating, *shapes), split_calls, split_text, write)

    def fitted(self, messages: list[Message], write: Callable[[ToolCall], str]) -> list[Message]:
        """The conversation as the template reads all of it. `write`: a call as text."""
        if self.write_calls:
            messages = calls_as_text(messages, write)
        if self.split_calls:
            messages = _with_single_calls(messages)
        if self.split_text:
            messages = _with_text_apart(messages)
        return _alternating(messages) if self.alternate else messages


def calls_as_text(messages: Messages, write: Callable[[ToolCall], str]) -> list[Message]:
    """Calls as text after the text of their messages."""
    return [_with_calls_as_text(each, write) if each.calls else each for each in messages]


def _with_calls_as_text(message: Message, write: Callable[[ToolCall], str]) -> Message:
    lines = [*filter(None, texts(message.parts)), *map(write, message.calls)]
    return _replace(message, parts=(*_pictures(message), Text("\n".join(lines))), calls=())


def _with_single_calls(messages: Messages) -> list[Message]:
    """Each call in a message of its own, before its result.

    Results belong to calls by their ids, then, without one, by their order.
    """
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
        own = _paired(message.calls, results)
        for no, call in enumerate(message.calls):
            bare = message if no == 0 else Message(role="assistant")
            single += [_replace(bare, calls=(call,)), *own[no]]
    return single


def _paired(calls: Sequence[ToolCall], results: Messages) -> list[list[Message]]:
    """The results of each call; those that are too many are the last one's."""
    waiting: defaultdict[str, deque[int]] = defaultdict(deque)
    for no, call in enumerate(calls):
        waiting[call.id].append(no)
    own: list[list[Message]] = [[] for _ in calls]
    strangers: list[Message] = []
    for result in results:
        of = waiting[result.tool_call_id or ""]
        if of:
            own[of.popleft()].append(result)
        else:
            strangers.append(result)
    without = [no for no, found in enumerate(own) if not found]
    for no, result in zip(without, strangers, strict=False):
        own[no].append(_replace(result, tool_call_id=calls[no].id))
    own[-1] += strangers[len(without) :]
    return own


def _with_text_apart(messages: Messages) -> list[Message]:
    """Thoughts stay beside the calls, where such templates show them."""
    apart: list[Message] = []
    for message in messages:
        if message.calls and any(texts(message.parts)):
            apart += [_replace(message, calls=(), reasoning=None), _replace(message, parts=())]
        else:
            apart.append(message)
    return apart


def _alternating(messages: Messages) -> list[Message]:
    """User and assistant in turn, as such templates count them: without messages that have calls,
    and without results."""
    turns: list[Message] = []
    before: Role = "assistant"
    spoken = [each for each in messages if each.role != "assistant" or _is_seen(each)]
    for role, run in groupby(spoken or messages, lambda each: each.role):
        if role not in _BETWEEN:
            turns += run
            continue
        message = _merged(list(run))
        if not message.calls:
            if before == role:
                turns.append(_BETWEEN["assistant" if role == "user" else "user"])
            before = role
        turns.append(message)
    return turns


def _is_seen(message: Message) -> bool:
    """Not all such templates take an answer of the assistant that has nothing but thoughts."""
    return bool(message.calls or any(texts(message.parts)) or _pictures(message))


def _merged(run: Messages) -> Message:
    first, *others = run
    if not others:
        return first
    thoughts = [each.reasoning for each in run if each.reasoning]
    return _replace(
        joined(*run),
        name=first.name if all(each.name == first.name for each in others) else None,
        calls=tuple(call for each in run for call in each.calls),
        reasoning="\n\n".join(thoughts) or None,
    )


def _pictures(message: Message) -> list[Picture]:
    return [part for part in message.parts if isinstance(part, Picture)]


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
    (_ASKED, Message(role="assistant", reasoning="thought"), _MORE),
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
