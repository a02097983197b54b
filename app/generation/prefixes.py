"""Why a prompt is not in the prefix cache: where it differs from the most similar one before.

Agents send a conversation again with each turn, and the engine reads only what is new, unless
something in the middle has changed. Of the last prompts the token ids are kept, so that the first
difference can be told.

    prompt N     t t t t t t t t t t
    prompt N+1   t t t t t x t t t t t t      shared: 5 of 10
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec

from app.stats import Prefix
from app.types import ChatPrompt, GenerationRequest, Message

LEAST_TOKENS = 256
"""A shorter prompt is read at once, in the cache or not."""
_BLOCK = 128
"""Prompts are compared by blocks of so many tokens, and within the first block that differs."""
_MOST_TOKENS = 2_000_000
"""Of all prompts that are kept, 8 bytes each."""
_TAIL_TOKENS = 16
"""A template ends a prompt with what it leaves out of the turn that follows."""
_WINDOW = 24
"""Tokens at the difference that are looked for in the messages."""


class Prefixes:
    """The last prompts of this process, by whose they are."""

    def __init__(
        self, decode: Callable[[Sequence[int]], str], *, most_tokens: int = _MOST_TOKENS
    ) -> None:
        self._decode = decode
        self._most_tokens = most_tokens
        self._tokens = 0
        self._prompts: OrderedDict[int, tuple[array[int], list[int]]] = OrderedDict()
        """Each with the hashes of its beginnings, by number; the oldest first."""
        self._ends: dict[int, int] = {}
        """Hash of a beginning -> the last prompt that begins so."""
        self._no = 0

    def compare(self, request: GenerationRequest, ids: Sequence[int], owner: str) -> Prefix | None:
        """A request's only prompt with the most similar one before it, of the same owner in the
        same part of the cache."""
        shared = self.note(f"{owner}\0{request.cache_scope}", ids)
        if shared is None or shared.earlier - shared.tokens <= _TAIL_TOKENS:
            return shared
        prompt = request.prompts[0]
        messages = prompt.messages if isinstance(prompt, ChatPrompt) else ()
        where = place_of(shared.tokens, ids, messages, self._decode)
        return msgspec.structs.replace(shared, differs_in=where)

    def note(self, owner: str, ids: Sequence[int]) -> Prefix | None:
        """Keep a prompt; None: no earlier one of this owner has a block in common with it."""
        prompt = array("q", ids)
        hashes = _beginnings(owner, prompt)
        best = next((no for each in reversed(hashes) if (no := self._ends.get(each))), None)
        shared = None
        if best is not None:
            earlier, _ = self._prompts[best]
            shared = Prefix(_common(prompt, earlier, hashes, self._prompts[best][1]), len(earlier))
            if shared.tokens == len(earlier):
                self._remove(best)  # this one has all of it
        self._keep(prompt, hashes)
        return shared

    def _keep(self, prompt: array[int], hashes: list[int]) -> None:
        self._no += 1
        self._prompts[self._no] = prompt, hashes
        self._tokens += len(prompt)
        for each in hashes:
            self._ends[each] = self._no
        while self._tokens > self._most_tokens:
            self._remove(next(iter(self._prompts)))

    def _remove(self, no: int) -> None:
        prompt, hashes = self._prompts.pop(no)
        self._tokens -= len(prompt)
        for each in hashes:
            if self._ends.get(each) == no:
                del self._ends[each]


def _beginnings(owner: str, prompt: array[int]) -> list[int]:
    """A hash for each whole block: of the prompt up to its end."""
    hashes, so_far = [], hash(owner)
    for at in range(0, len(prompt) - _BLOCK + 1, _BLOCK):
        so_far = hash((so_far, prompt[at : at + _BLOCK].tobytes()))
        hashes.append(so_far)
    return hashes


def _common(one: array[int], other: array[int], hashes: list[int], others: list[int]) -> int:
    """Tokens of the common beginning."""
    blocks = 0
    while blocks < min(len(hashes), len(others)) and hashes[blocks] == others[blocks]:
        blocks += 1
    at, most = blocks * _BLOCK, min(len(one), len(other))
    while at < most and one[at] == other[at]:
        at += 1
    return at


def place_of(
    at: int,
    ids: Sequence[int],
    messages: Sequence[Message],
    decode: Callable[[Sequence[int]], str],
) -> str:
    """Which message has the token at this place, as a field of the request."""
    after = _words(decode(ids[at : at + _WINDOW]))
    before = _words(decode(ids[max(0, at - _WINDOW) : at]))
    for text in (before + after, after, before):
        if len(text) < 8:
            continue
        for no, message in enumerate(messages):
            if text in _words(_text(message)):
                return f"messages[{no}]"
    return "between messages, or in tools"


def _words(text: str) -> str:
    """Without blanks, which templates add and remove."""
    return "".join(text.split())


def _text(message: Message) -> str:
    calls = "".join(call.name + call.arguments for call in message.calls)
    return (message.reasoning or "") + "".join(part.text for part in message.parts) + calls
