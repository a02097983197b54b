"""Grammars in the scheduler: one that reaches a limit ends its own request, and nothing else."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from app.grammars.lowering import lower
from tests.support.grammars import BYTES

pytestmark = pytest.mark.full
AMBIGUOUS = 'start: x\nx: x x x | x x | "a"'
"""Its rows grow with each token, up to a limit."""


def _grammar(rules: str = AMBIGUOUS) -> Any:
    from app.engine.sglang.grammar_backend import LimitedBackend

    backend = object.__new__(LimitedBackend)
    backend._tokenizer = BYTES
    return backend.dispatch_ebnf(lower("lark", rules, BYTES, {}))


def _allowed(grammar: Any) -> set[int]:
    mask = grammar.allocate_vocab_mask(BYTES.vocab_size, 1, "cpu")
    grammar.fill_vocab_mask(mask, 0)
    words = [int(word) & 0xFFFFFFFF for word in mask[0]]
    return {token for token in range(BYTES.vocab_size) if words[token // 32] >> (token % 32) & 1}


def _exhausted() -> Any:
    grammar = _grammar()
    for _ in range(500):
        try:
            grammar.accept_token(ord("a"))
        except ValueError:
            return grammar
    raise AssertionError("no limit was reached")


def test_a_grammar_at_its_limit_ends_its_request_by_the_next_token_whatever_it_is() -> None:
    grammar = _exhausted()
    # Not the end of the answer, which would pass for the end of a complete one.
    assert _allowed(grammar) == set(range(BYTES.vocab_size)) - {BYTES.eos_token}
    for token in (ord("a"), BYTES.eos_token):
        with pytest.raises(ValueError, match="too complex"):
            grammar.accept_token(token)
    grammar.rollback(1)


def test_an_answer_ends_where_its_grammar_does() -> None:
    grammar = _grammar('start: "ab"')
    other = grammar.copy()
    assert _allowed(grammar) == {ord("a")}
    grammar.accept_token(ord("a"))
    assert _allowed(other) == {ord("a")}
    grammar.accept_token(ord("b"))
    assert _allowed(grammar) == {BYTES.eos_token}
    grammar.accept_token(BYTES.eos_token)
    assert grammar.is_terminated()
    grammar.rollback(2)
    assert not grammar.is_terminated()
    assert _allowed(grammar) == {ord("b")}


def test_a_tokenizer_that_llguidance_cannot_use_leaves_a_backend_that_refuses() -> None:
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import WordPiece
    from transformers import PreTrainedTokenizerFast

    from app.engine.sglang.grammar_backend import LimitedBackend

    wordpiece = Tokenizer(WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    wordpiece.decoder = decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=wordpiece)
    backend = LimitedBackend(tokenizer, n_vocab=2)
    refused = backend.dispatch_ebnf(lower("lark", AMBIGUOUS, BYTES, {}))
    assert refused.error_message == "no grammar can be compiled for this tokenizer"


def test_nothing_is_raised_while_drafted_tokens_are_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from app.engine.sglang import grammar_backend

    looked_at = []

    def traverse_tree(grammar: Any) -> None:
        grammar.accept_token(ord("b"))  # which the grammar does not allow
        looked_at.append(grammar)

    module = ModuleType("spec_utils")
    module.traverse_tree = traverse_tree  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sglang.srt.speculative.spec_utils", module)
    grammar_backend._look_at_drafts_gently()
    grammar_backend._look_at_drafts_gently()  # once
    grammar = _grammar()
    module.traverse_tree(grammar)
    assert looked_at == [grammar]
    with pytest.raises(ValueError, match="too complex"):
        grammar.accept_token(ord("a"))


@pytest.mark.filterwarnings("ignore")  # of what SGLang imports
def test_the_scheduler_keeps_a_thousand_grammars_and_none_that_failed() -> None:
    from sglang.srt.constrained.base_grammar_backend import InvalidGrammarObject

    from app.engine.sglang.models import grammars

    backend = SimpleNamespace(cache={})
    for no in range(1100):
        grammars._set_cache(backend, ("ebnf", str(no)), object())
    assert len(backend.cache) == 1000
    assert ("ebnf", "1099") in backend.cache
    grammars._set_cache(backend, ("ebnf", "1099"), InvalidGrammarObject("timed out"))
    assert ("ebnf", "1099") not in backend.cache
