"""Why a prompt is not in the prefix cache: where it differs from one before that begins alike.

Agents send a conversation again with each turn, and the engine reads only what is new, unless
something in the middle has changed. Of the last prompts the token ids are kept, so that the first
difference can be told.

    prompt N     t t t t t t t t t t
    prompt N+1   t t t t t x t t t t t t      shared: 5 of 10
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence

import msgspec

from app.stats import Prefix
from app.types import Message, texts

LEAST_TOKENS = 256
"""A shorter prompt is read at once, in the cache or not."""
_BLOCK = 128
"""Prompts are compared by blocks of so many tokens, and within the first block that differs."""
_MOST_TOKENS = 2_000_000
"""Of all prompts that are kept, 8 bytes each."""
TAIL_TOKENS = 16
"""A template ends a prompt with what it leaves out of the turn that follows."""
_HEAD = 48
"""Characters by which a text of a message is found in the prompt."""
_WINDOW = 2 * _HEAD
"""Tokens after the difference that are decoded, too: a message may have begun just before it."""
_REACH = 16_384
"""Characters of the prompt that are searched for a text's head: the template may write some
between two texts, or leave texts out."""


class Prefixes:
    """The last prompts of this process, by whose they are."""

    def __init__(self, *, most_tokens: int = _MOST_TOKENS) -> None:
        self._most_tokens = most_tokens
        self._tokens = 0
        self._prompts: dict[int, _Kept] = {}
        self._ends: dict[int, int] = {}
        """Hash of a beginning -> the number of the last prompt that begins so."""
        self._owners: dict[str, _Owner] = {}
        self._no = 0

    def note(self, owner: str, ids: Sequence[int]) -> Prefix | None:
        """Keep a prompt, and tell what it has in common with the last one of its owner that begins
        alike. None: there is none, or it is too short to matter."""
        if len(ids) < LEAST_TOKENS:
            return None
        prompt = array("q", ids)
        hashes = _beginnings(owner, prompt)
        last = next((no for each in reversed(hashes) if (no := self._ends.get(each))), None)
        shared = None
        if last is not None:
            earlier = self._prompts[last]
            shared = Prefix(_common(prompt, hashes, earlier), len(earlier.ids))
            if shared.tokens == len(earlier.ids):
                self._remove(last)  # this one has all of it
        self._keep(_Kept(prompt, hashes, owner))
        return shared

    def _keep(self, kept: _Kept) -> None:
        self._no += 1
        self._prompts[self._no] = kept
        self._tokens += len(kept.ids)
        owner = self._owners.setdefault(kept.owner, _Owner())
        owner.numbers[self._no] = None
        owner.tokens += len(kept.ids)
        for each in kept.hashes:
            self._ends[each] = self._no
        while self._tokens > self._most_tokens:
            most = max(self._owners.values(), key=lambda owner: owner.tokens)
            self._remove(next(iter(most.numbers)))

    def _remove(self, no: int) -> None:
        kept = self._prompts.pop(no)
        self._tokens -= len(kept.ids)
        owner = self._owners[kept.owner]
        del owner.numbers[no]
        owner.tokens -= len(kept.ids)
        if not owner.numbers:
            del self._owners[kept.owner]
        for each in kept.hashes:
            if self._ends.get(each) == no:
                del self._ends[each]


class _Kept(msgspec.Struct, frozen=True):
    ids: array[int]
    hashes: list[int]
    """Of its beginnings, one for each whole block."""
    owner: str


class _Owner:
    def __init__(self) -> None:
        self.numbers: dict[int, None] = {}
        """Of its prompts, the oldest first."""
        self.tokens = 0


def _beginnings(owner: str, prompt: array[int]) -> list[int]:
    """A hash for each whole block: of the prompt up to its end."""
    hashes, so_far = [], hash(owner)
    for at in range(0, len(prompt) - _BLOCK + 1, _BLOCK):
        so_far = hash((so_far, prompt[at : at + _BLOCK].tobytes()))
        hashes.append(so_far)
    return hashes


def _common(ids: array[int], hashes: list[int], earlier: _Kept) -> int:
    """Tokens of the common beginning."""
    blocks = 0
    while blocks < min(len(hashes), len(earlier.hashes)) and (
        hashes[blocks] == earlier.hashes[blocks]
    ):
        blocks += 1
    at, most = blocks * _BLOCK, min(len(ids), len(earlier.ids))
    while at < most and ids[at] == earlier.ids[at]:
        at += 1
    return at


def place_of(
    at: int,
    ids: Sequence[int],
    messages: Sequence[Message],
    decode: Callable[[Sequence[int]], str],
) -> str:
    """Which message has the token at this place.

    The texts of the messages are found in the prompt one after the other: the last that begins
    before the token has it. Templates add and remove blanks, which are left out.
    """
    before = len(_solid(decode(ids[:at])))
    prompt = _solid(decode(ids[: at + _WINDOW]))
    begins, found = 0, -1
    for no, text in _texts(messages):
        head = text[:_HEAD]
        place = prompt.find(head, begins, begins + len(head) + _REACH)
        if place > before:
            break
        if place >= 0:
            begins, found = place + min(len(text), before - place), no
    if found < 0:
        return "before the messages: tools or the template"
    return f"message {found + 1} of {len(messages)} ({messages[found].role})"


def _texts(messages: Sequence[Message]) -> Iterator[tuple[int, str]]:
    """Each text with the number of its message, as templates write them."""
    for no, message in enumerate(messages):
        written = [message.reasoning or "", *texts(message.parts)]
        for call in message.calls:
            written += [call.name, call.arguments]
        yield from ((no, solid) for text in written if (solid := _solid(text)))


def _solid(text: str) -> str:
    return "".join(text.split())
