"""The bytes of a vocabulary's tokens, and SGLang's log-probabilities as ours."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import zip_longest
from typing import Any, overload

from app.events import ScoredToken, Token

_BYTE = re.compile(r"^<0x([0-9A-Fa-f]{2})>$")
_LEAST = -9999.0
"""Instead of minus infinity and NaN, which JSON does not have."""


ByteValues = Callable[[int], Sequence[int] | None]
"""Token id -> its bytes, if the tokenizer is one of bytes."""


class Vocabulary:
    """One tokenizer's tokens. Belongs to one thread."""

    def __init__(self, tokenizer: Any, byte_values: ByteValues | None = None) -> None:
        """`byte_values`: of a byte-level tokenizer; None: SGLang's own."""
        self._tokenizer = tokenizer
        self._byte_values = byte_values or _sglangs(tokenizer)
        self._special = frozenset(tokenizer.all_special_ids)
        self.raw = lru_cache(maxsize=65_536)(self._raw)
        """Token id -> its true bytes. A character's bytes may be spread over several tokens."""

    def scored(
        self,
        logprobs: Sequence[float | None],
        ids: Sequence[int],
        top_logprobs: Sequence[Sequence[float | None] | None] = (),
        top_ids: Sequence[Sequence[int] | None] = (),
    ) -> tuple[ScoredToken, ...]:
        """SGLang's four columns, an entry for each position, as tokens with their scores.

        The columns of alternatives may be shorter than those of the tokens themselves.
        """
        raw = self.raw
        tokens = []
        tops = list(zip_longest(top_logprobs, top_ids))
        for position, (logprob, id) in enumerate(zip(logprobs, ids, strict=True)):
            own = Token(id, raw(id), _finite(logprob))
            values, others = tops[position] if position < len(tops) else ((), ())
            top = [
                # One token, one number: evaluation harnesses compare the two as floats.
                own if other == id else Token(other, raw(other), _finite(value))
                for value, other in zip(values or (), others or (), strict=True)
            ]
            top.sort(key=lambda token: -token.logprob)
            tokens.append(ScoredToken(own, tuple(top), logprob is not None))
        return tuple(tokens)

    def _raw(self, id: int) -> bytes:
        piece = self._tokenizer.convert_ids_to_tokens(id)
        if piece is None:
            return b""  # a row of the embedding that has no token
        if id in self._special:
            return str(piece).encode()
        if (values := self._byte_values(id)) is not None:
            return bytes(values)
        if isinstance(piece, bytes):
            return piece
        if (byte := _BYTE.match(piece)) is not None:
            return bytes([int(byte[1], 16)])
        return str(piece).replace("\u2581", " ").encode()


def _sglangs(tokenizer: Any) -> ByteValues:
    from sglang.srt.entrypoints.openai.utils import _is_byte_level_tokenizer, token_id_to_bytes

    if not _is_byte_level_tokenizer(tokenizer):
        return lambda _: None
    return functools.partial(token_id_to_bytes, tokenizer)


class ScoredColumns(Sequence[ScoredToken]):
    """SGLang's four columns, made into tokens when they are read: a prompt has many."""

    def __init__(self, vocabulary: Vocabulary, columns: Sequence[Sequence[Any]]) -> None:
        self._vocabulary = vocabulary
        self._columns = columns

    def __len__(self) -> int:
        return len(self._columns[0])

    @overload
    def __getitem__(self, place: int) -> ScoredToken: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[ScoredToken, ...]: ...
    def __getitem__(self, place: int | slice) -> ScoredToken | tuple[ScoredToken, ...]:
        if isinstance(place, slice):
            return self._vocabulary.scored(*(column[place] for column in self._columns))
        return self[range(len(self))[place] :][0]


def _finite(logprob: float | None) -> float:
    if logprob is None or math.isnan(logprob):
        return _LEAST
    return max(logprob, _LEAST)
