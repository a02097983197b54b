"""System messages for templates that take one, at the front, or none at all.

Agents send several: Codex two from the developer, and more after a compaction. Of thirty templates
that were looked at some refuse a second one, some drop it in silence, some know none. What a
template does is tried once, with marked messages; what it would lose is put where it keeps it:
those at the front become one, a later one becomes part of the user's message beside it, so that
what precedes it stays as it was and is found in the prefix cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from app.types import Message, Text

_SYSTEM = ("system", "developer")
_MARKS = ("first mark", "second mark", "late mark")


class SystemTurns(msgspec.Struct, frozen=True):
    """What a template keeps."""

    one: bool = True
    """A system message at the front."""
    several: bool = True
    """Several at the front."""
    late: bool = True
    """One after a message of another."""

    @classmethod
    def tried(cls, render: Callable[[list[Message]], str | None]) -> SystemTurns:
        """`render`: a conversation as text; None if the template refuses it."""
        first, second, late = (_said("system", mark) for mark in _MARKS)
        ask, answer = _said("user", "question"), _said("assistant", "answer")

        def keeps(*messages: Message) -> bool:
            text = render(list(messages)) or ""
            wanted = [each.parts[0].text for each in messages if each.role == "system"]
            return all(mark in text for mark in wanted)

        return cls(
            one=keeps(first, ask),
            several=keeps(first, second, ask),
            late=keeps(ask, answer, late, ask),
        )

    def fitted(self, messages: Sequence[Message]) -> list[Message]:
        """The conversation as the template keeps all of it."""
        opening = 0
        while opening < len(messages) and messages[opening].role in _SYSTEM:
            opening += 1
        fitted = list(messages[:opening])
        if opening > 1 and not self.several:
            fitted = [_joined(*fitted)]
        rest = list(messages[opening:])
        if not self.one:
            rest = _into_users([*fitted, *rest])
            fitted = []
        elif not self.late:
            rest = _into_users(rest)
        return [*fitted, *rest]


def _into_users(messages: Sequence[Message]) -> list[Message]:
    """System messages as parts of the user's: of the next, else of the one before."""
    made: list[Message] = []
    waiting: list[Message] = []
    for message in messages:
        if message.role in _SYSTEM:
            waiting.append(message)
        elif message.role == "user" and waiting:
            made.append(_joined(*waiting, message, role="user"))
            waiting = []
        else:
            _put(waiting, made)
            waiting = []
            made.append(message)
    _put(waiting, made)
    return made


def _put(waiting: list[Message], made: list[Message]) -> None:
    """Where no message of the user follows."""
    if waiting and made and made[-1].role == "user":
        made[-1] = _joined(made[-1], *waiting, role="user")
    elif waiting:
        made.append(_joined(*waiting, role="user"))


def _joined(*messages: Message, role: str | None = None) -> Message:
    text = "\n\n".join(
        "\n".join(part.text for part in message.parts) for message in messages if message.parts
    )
    return msgspec.structs.replace(
        messages[0], role=role or messages[0].role, name=None, parts=(Text(text),)
    )


def _said(role: str, text: str) -> Message:
    return Message(role=role, parts=(Text(text),))  # type: ignore[arg-type]
