"""What the tokens of a vocabulary are made of: their true bytes, as log-probabilities need them.
And a shorter way from text to ids."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import zip_longest
from typing import Any

from app.events import ScoredToken, Token

_BYTE = re.compile(r"^<0x([0-9A-Fa-f]{2})>$")
_LEAST = -9999.0
"""Instead of minus infinity and NaN, which JSON does not have."""


class Vocabulary:
    """Bytes of tokens, and SGLang's log-probabilities as ours."""

    def __init__(self, tokenizer: Any) -> None:
        from sglang.srt.entrypoints.openai.utils import _is_byte_level_tokenizer

        self._tokenizer = tokenizer
        self._byte_level = _is_byte_level_tokenizer(tokenizer)
        self._special = frozenset(tokenizer.all_special_ids)
        self.raw = lru_cache(maxsize=65_536)(self._raw)
        """The bytes of a token. Those of one character may be spread over several tokens."""

    def scored(
        self,
        logprobs: Sequence[float | None],
        ids: Sequence[int],
        top_logprobs: Sequence[Sequence[float | None] | None] = (),
        top_ids: Sequence[Sequence[int] | None] = (),
    ) -> tuple[ScoredToken, ...]:
        """SGLang's columns: one entry for each position, the alternatives' as many as there are."""
        raw = self.raw
        found = []
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
            found.append(ScoredToken(own, tuple(top), logprob is not None))
        return tuple(found)

    def _raw(self, id: int) -> bytes:
        from sglang.srt.entrypoints.openai.utils import token_id_to_bytes

        piece = self._tokenizer.convert_ids_to_tokens(id)
        if piece is None:
            return b""  # a row of the embedding that has no token
        if id in self._special:
            return str(piece).encode()
        if self._byte_level and (values := token_id_to_bytes(self._tokenizer, id)) is not None:
            return bytes(values)
        if isinstance(piece, bytes):
            return piece
        if (byte := _BYTE.match(piece)) is not None:
            return bytes([int(byte[1], 16)])
        return str(piece).replace("\u2581", " ").encode()


_SAMPLES = ("", "Hello world", " a\n\tb  c", "Łódź 🌦️ <|im_start|><s></s>")


def use_fast_encode(tokenizer: Any) -> None:
    """Let `tokenizer.encode` of a plain text go straight to its Rust part.

    transformers looks at some twenty options before and makes dicts of lists after, which takes
    several times as long as the tokens of a short prompt. Only where its own code would do the
    same: classes that override it, and other options, keep their way.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    own = [getattr(type(tokenizer), name, None) for name in ("encode", "_encode_plus")]
    if backend is None or not all(
        getattr(each, "__module__", "").startswith("transformers.tokenization_") for each in own
    ):
        return
    usual = tokenizer.encode

    def encode(text: Any, add_special_tokens: bool = True, **options: Any) -> list[int]:
        if (
            type(text) is not str
            or options
            or backend.truncation is not None
            or backend.padding is not None
            or backend.encode_special_tokens
        ):
            ids: list[int] = usual(text, add_special_tokens=add_special_tokens, **options)
            return ids
        return list(backend.encode(text, add_special_tokens=add_special_tokens).ids)

    if all(
        encode(text, add_special_tokens=special) == usual(text, add_special_tokens=special)
        for text in (*_SAMPLES, *map(str, tokenizer.all_special_tokens))
        for special in (True, False)
    ):
        tokenizer.encode = encode


def _finite(logprob: float | None) -> float:
    if logprob is None or math.isnan(logprob):
        return _LEAST
    return max(logprob, _LEAST)
