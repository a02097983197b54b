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

from app.types import Message, Part, Picture, Text, texts

_SYSTEM = ("system", "developer")


class SystemTurns(msgspec.Struct, frozen=True):
    """What a template keeps."""

    one: bool = True
    """A system message at the front."""
    several: bool = True
    """Several at the front."""
    late: bool = True
    """One after a message of another."""

    @classmethod
    def tried(
        cls, render: Callable[[list[Message]], str | None], called: Sequence[Message] = ()
    ) -> SystemTurns:
        """`render`: a conversation as text; None if the template refuses it. `called`: one that
        ends with a result, if the template knows them."""
        first, second, late = (_said("system", f"system mark {no}") for no in (1, 2, 3))
        ask, more = _said("user", "user mark 1"), _said("user", "user mark 2")
        answer = _said("assistant", "assistant mark")

        def keeps(*messages: Message) -> bool:
            """All of them, in their order: some templates move each to the front."""
            text = render(list(messages)) or ""
            places = [text.find(said) for message in messages for said in texts(message.parts)]
            return -1 not in places and places == sorted(places)

        return cls(
            # Some write it beside the user's message, if that is the last.
            one=keeps(first, ask) and (not keeps(*called) or keeps(first, *called)),
            several=keeps(first, second, ask),
            late=keeps(first, ask, answer, late, more),
        )

    def fitted(self, messages: Sequence[Message]) -> list[Message]:
        """The conversation as the template keeps all of it."""
        opening = 0
        while opening < len(messages) and messages[opening].role in _SYSTEM:
            opening += 1
        fitted = list(messages[:opening])
        if opening > 1 and not self.several:
            fitted = [joined(*fitted)]
        rest = list(messages[opening:])
        if not self.one:
            rest = _into_users([*fitted, *rest])
            fitted = []
        elif not self.late:
            rest = _into_users(rest)
        return [*fitted, *rest]


def _into_users(messages: Sequence[Message]) -> list[Message]:
    """System messages as parts of others: of the tool's result before, which the model reads as its
    own turn's, else of the user's message after, else of the one before."""
    groups: list[list[Message]] = []
    waiting: list[Message] = []
    for message in messages:
        if message.role in _SYSTEM and groups and groups[-1][0].role == "tool":
            groups[-1].append(message)
        elif message.role in _SYSTEM:
            waiting.append(message)
        elif message.role == "tool":
            groups.append([message])  # what waits stands between a call and its results
        elif message.role == "user":
            _put_after_results(waiting, groups)
            groups.append([*waiting, message])
            waiting = []
        else:
            _put(waiting, groups)
            waiting = []
            groups.append([message])
    _put(waiting, groups)
    return [_as_one(group) for group in groups]


def _put_after_results(waiting: list[Message], groups: list[list[Message]]) -> None:
    if groups and groups[-1][0].role == "tool":
        groups[-1] += waiting
        waiting.clear()


def _put(waiting: list[Message], groups: list[list[Message]]) -> None:
    """Where no message of the user follows."""
    if waiting and groups and groups[-1][0].role in ("user", *_SYSTEM, "tool"):
        groups[-1] += waiting
    elif waiting:
        groups.append(list(waiting))


def _as_one(group: list[Message]) -> Message:
    if len(group) == 1 and group[0].role not in _SYSTEM:
        return group[0]
    other = next((each for each in group if each.role not in _SYSTEM), None)
    whole = joined(*group)
    if other is None:
        return msgspec.structs.replace(whole, role="user")
    return msgspec.structs.replace(other, parts=whole.parts)


def joined(*messages: Message) -> Message:
    """The first, with what all say."""
    if any(isinstance(part, Picture) for message in messages for part in message.parts):
        parts = _joined_parts(messages)
    else:
        said = filter(None, ("\n".join(texts(message.parts)) for message in messages))
        text = "\n\n".join(said)
        parts = (Text(text),) if text else ()
    return msgspec.structs.replace(messages[0], name=None, parts=parts)


def _joined_parts(messages: Sequence[Message]) -> tuple[Part, ...]:
    """Those of all, so that pictures keep their places."""
    parts: list[Part] = []
    for message in messages:
        own = [part for part in message.parts if not isinstance(part, Text) or part.text]
        if parts and own and isinstance(own[0], Text):
            last = parts.pop() if isinstance(parts[-1], Text) else Text("")
            # One text, since templates trim each.
            own[0] = Text(f"{texts([last])[0]}\n\n{own[0].text}")
        parts += own
    return tuple(parts)


def _said(role: str, text: str) -> Message:
    return Message(role=role, parts=(Text(text),))  # type: ignore[arg-type]
