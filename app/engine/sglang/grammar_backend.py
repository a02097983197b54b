"""SGLang's grammars on llguidance, for the scheduler's processes.

SGLang has a backend on llguidance of its own (0.5.23, `srt/constrained/llguidance_backend.py`),
which sets no limits, raises in the middle of a batch when one is reached, and does not work beside
a reasoning parser. What is different here is each method below. Requests bring grammars that were
compiled before by the server (app/grammars/), all in the same form, in the field `ebnf`.

models/grammars.py puts this into place.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.torch import allocate_token_bitmask, fill_next_token_bitmask
from sglang.srt.constrained.base_grammar_backend import (
    BaseGrammarBackend,
    BaseGrammarObject,
    InvalidGrammarObject,
)
from sglang.srt.constrained.llguidance_backend import GuidanceGrammar
from sglang.srt.constrained.torch_ops.token_filter_torch_ops import set_token_filter_torch

from app.engine.sglang.sampling_names import ANYTHING
from app.engine.sglang.tokenizers import vocabulary_of
from app.grammars.compiler import compiled
from app.grammars.lowering import limits_of
from app.grammars.refused import Refused
from app.trials.worker import Unusable

_TOO_COMPLEX = "the grammar became too complex"


class LimitedGrammar(GuidanceGrammar):  # type: ignore[misc]
    """One request's. Reaching a limit ends that request, when its next token is taken."""

    finished: bool

    def __init__(self, tokenizer: LLTokenizer, matcher: LLMatcher) -> None:
        super().__init__(tokenizer, "", ll_matcher=matcher)

    drafting = False
    """Of the class: drafted tokens are being looked at, where nothing may be raised."""

    def accept_token(self, token: int) -> None:
        self.current_token = token
        if self.finished:
            return
        if not self.ll_matcher.is_error():
            if self.ll_matcher.is_stopped() and token in self.eos_tokens:
                self.finished = True
                return
            if self.ll_matcher.consume_token(token):
                return
        if not LimitedGrammar.drafting:
            raise ValueError(_TOO_COMPLEX)

    def rollback(self, num_tokens: int) -> None:
        if num_tokens > 0 and self.finished:
            self.finished = False
            num_tokens -= 1  # the end token is not llguidance's
        if num_tokens > 0 and not self.ll_matcher.is_error():
            self.ll_matcher.rollback(num_tokens)

    def fill_vocab_mask(self, vocab_mask: torch.Tensor, idx: int) -> None:
        fill_next_token_bitmask(self.ll_matcher, vocab_mask, idx)
        if self.ll_matcher.is_error():
            # llguidance allows the end, which would pass for the end of a complete answer. Any
            # other token ends the request, when it is taken.
            vocab_mask[idx].fill_(-1)
            for token in self.eos_tokens:
                word, bit = divmod(token, 32)
                vocab_mask[idx, word] &= ~(1 << bit) if bit < 31 else 2**31 - 1

    @staticmethod
    def fill_vocab_mask_batched(entries: Sequence[Any], vocab_mask: torch.Tensor) -> None:
        for entry in entries:  # some may be wrapped, for thinking
            entry.grammar.fill_vocab_mask(vocab_mask, entry.row)

    @staticmethod
    def apply_vocab_mask(logits: torch.Tensor, vocab_mask: torch.Tensor) -> None:
        _apply(logits, vocab_mask)

    def copy(self) -> LimitedGrammar:
        return LimitedGrammar(self.llguidance_tokenizer, self.ll_matcher.deep_copy())

    def _check_err(self) -> None:
        pass


def _look_at_drafts_gently() -> None:
    """With speculative decoding SGLang takes drafted tokens without a `try`: there an error would
    end the engine."""
    module = sys.modules.get("sglang.srt.speculative.spec_utils")
    if module is None or hasattr(module.traverse_tree, "__wrapped__"):
        return
    traverse = module.traverse_tree

    @functools.wraps(traverse)
    def gently(*arguments: Any, **options: Any) -> None:
        LimitedGrammar.drafting = True
        try:
            traverse(*arguments, **options)
        finally:
            LimitedGrammar.drafting = False

    module.traverse_tree = gently  # type: ignore[attr-defined]


class _Masks:
    """Which tokens are allowed, a row of bits for each sequence of a batch."""

    def allocate_vocab_mask(self, vocab_size: int, batch_size: int, device: Any) -> torch.Tensor:
        return allocate_token_bitmask(batch_size, vocab_size)

    @staticmethod
    def move_vocab_mask(vocab_mask: torch.Tensor, device: Any) -> torch.Tensor:
        return vocab_mask.to(device, non_blocking=True)

    @staticmethod
    def apply_vocab_mask(logits: torch.Tensor, vocab_mask: torch.Tensor) -> None:
        _apply(logits, vocab_mask)


class Anything(_Masks, BaseGrammarObject):  # type: ignore[misc]
    """The grammar of every text. What bounds the thinking before an answer is wrapped around it."""

    def accept_token(self, token: int) -> None:
        self.current_token = token

    def rollback(self, k: int) -> None:
        pass

    def is_terminated(self) -> bool:
        return False

    def fill_vocab_mask(self, vocab_mask: torch.Tensor, idx: int) -> None:
        pass  # whose rows allow everything at first

    def copy(self) -> Anything:
        return Anything()


class LimitedBackend(_Masks, BaseGrammarBackend):  # type: ignore[misc]
    """Takes the arguments with which SGLang makes its own."""

    def __init__(
        self,
        tokenizer: Any,
        any_whitespace: bool = True,
        whitespace_pattern: str | None = None,
        n_vocab: int | None = None,
        eos_token_ids: Iterable[int] | int | None = None,
    ) -> None:
        super().__init__()
        _look_at_drafts_gently()
        ends = [eos_token_ids] if isinstance(eos_token_ids, int) else eos_token_ids
        vocabulary = vocabulary_of(tokenizer, n_vocab or len(tokenizer), ends)
        try:
            self._tokenizer = None if vocabulary is None else vocabulary.load()
        except Unusable:  # the server says so, and refuses grammars
            self._tokenizer = None

    def dispatch_ebnf(self, key_string: str) -> Any:
        if key_string == ANYTHING:
            return Anything()
        if self._tokenizer is None:
            return InvalidGrammarObject("no grammar can be compiled for this tokenizer")
        grammar, limits = limits_of(key_string)
        try:
            matcher = compiled(self._tokenizer, grammar, limits=limits)
        except Refused as refused:  # the server has tried it
            return InvalidGrammarObject(str(refused))
        return LimitedGrammar(self._tokenizer, matcher)

    # For ReasonerGrammarBackend, which wraps this one.

    is_support_token_filter = True

    @staticmethod
    def set_token_filter(
        vocab_mask: torch.Tensor,
        token_ids: list[int],
        batch_idx: int,
        is_allowed: bool = True,
        reset_vocab_mask: bool = True,
    ) -> None:
        set_token_filter_torch(
            vocab_mask, token_ids, batch_idx, is_allowed=is_allowed,
            reset_vocab_mask=reset_vocab_mask,
        )  # fmt: skip


def _apply(logits: torch.Tensor, vocab_mask: torch.Tensor) -> None:
    """By SGLang's kernels: llguidance's own is compiled at the first request, in 12 seconds.

    The masks have the same layout: 32 tokens in each int32, the lowest bit first.
    """
    from sglang.srt.constrained.xgrammar_backend import XGrammarGrammar

    XGrammarGrammar.apply_vocab_mask(None, logits, vocab_mask)
