"""The prompt by which a model fills the gap between two texts."""

from __future__ import annotations

from typing import Any

# (before the prefix, before the suffix, before the middle): what models trained to fill gaps call
# these tokens. Codestral's suffix comes first and nothing stands before the middle.
_GAP_TOKENS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"),
    ("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>"),
    ("[PREFIX]", "[SUFFIX]", ""),
)


class Infill:
    """The token ids that frame prefix and suffix, in one vocabulary."""

    def __init__(self, first: list[int], gap: tuple[int, int, int | None]) -> None:
        self._first = first
        """The token that begins every prompt (BOS), if the tokenizer adds one."""
        self._before_prefix, self._before_suffix, self._before_middle = gap

    @classmethod
    def of(cls, tokenizer: Any) -> Infill | None:
        """None if the model was not trained to fill gaps."""
        vocabulary = tokenizer.get_vocab()
        for prefix, suffix, middle in _GAP_TOKENS:
            if all(token in vocabulary for token in (prefix, suffix, middle) if token):
                gap = vocabulary[prefix], vocabulary[suffix], vocabulary.get(middle)
                return cls(tokenizer("")["input_ids"][:1], gap)
        return None

    def prompt(self, tokenizer: Any, prefix: str, suffix: str) -> list[int]:
        before = tokenizer(prefix, add_special_tokens=False)["input_ids"]
        after = tokenizer(suffix, add_special_tokens=False)["input_ids"]
        if self._before_middle is None:
            return [*self._first, self._before_suffix, *after, self._before_prefix, *before]
        return [
            *self._first,
            self._before_prefix,
            *before,
            self._before_suffix,
            *after,
            self._before_middle,
        ]
