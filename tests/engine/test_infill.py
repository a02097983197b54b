"""The prompt with a gap, by the names that models give its tokens."""

from __future__ import annotations

from typing import Any

import pytest

from app.engine.sglang.infill import Infill


class Tokenizer:
    """Words are characters; the special tokens are numbered from 1000."""

    def __init__(self, *special: str, bos: list[int]) -> None:
        self._vocabulary = {name: 1000 + no for no, name in enumerate(special)}
        self._bos = bos

    def get_vocab(self) -> dict[str, int]:
        return self._vocabulary

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, Any]:
        ids = [ord(each) for each in text]
        return {"input_ids": [*self._bos, *ids] if add_special_tokens else ids}


QWEN = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"


@pytest.mark.parametrize("bos", [[], [1]])
def test_prefix_and_suffix_stand_behind_their_tokens(bos: list[int]) -> None:
    tokenizer = Tokenizer(*QWEN, bos=bos)
    infill = Infill.of(tokenizer)
    assert infill is not None
    assert infill.prompt(tokenizer, "a", "b") == [*bos, 1000, 97, 1001, 98, 1002]


def test_codestral_takes_the_suffix_first() -> None:
    tokenizer = Tokenizer("[PREFIX]", "[SUFFIX]", bos=[1])
    infill = Infill.of(tokenizer)
    assert infill is not None
    assert infill.prompt(tokenizer, "a", "b") == [1, 1001, 98, 1000, 97]


@pytest.mark.parametrize("special", [(), QWEN[:2]])
def test_a_model_without_these_tokens_fills_no_gap(special: tuple[str, ...]) -> None:
    assert Infill.of(Tokenizer(*special, bos=[])) is None
