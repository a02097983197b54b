"""Where a budget of thinking is counted, and where it ends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("ignore")]
END, CALL, WORD = 200, 201, ord("a")


class _Tokenizer:
    """A token for each byte, and one for each marker."""

    def encode(self, text: str, **_: Any) -> list[int]:
        return {"</think>": [END], "<tool_call>": [CALL]}.get(text) or list(text.encode())

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join({END: "</think>", CALL: "<tool_call>"}.get(id) or chr(id) for id in ids)


def thinking(budget: int, inner: Any = None, *, at_line_start: bool = False) -> Any:
    """What the scheduler has for a request that begins with thinking."""
    from app.engine.sglang.grammar_backend import Anything
    from app.engine.sglang.models import grammars

    detector = SimpleNamespace(
        think_end_token="</think>",
        tool_start_token="<tool_call>",
        tool_start_at_line_start=at_line_start,
        think_excluded_tokens=(),
        get_think_end_token_ids=lambda tokenizer: tokenizer.encode("</think>"),
        get_answer_frame=lambda: None,
    )
    backend = grammars.ReasonerGrammarBackend(
        SimpleNamespace(  # type: ignore[arg-type]
            is_support_token_filter=True, set_token_filter=None, allocate_vocab_mask=None,
            move_vocab_mask=None, apply_vocab_mask=None,
        ),
        SimpleNamespace(detector=detector),
        _Tokenizer(),
    )  # fmt: skip
    made = backend._make_grammar_object(Anything() if inner is None else inner, True)
    made.max_think_tokens = budget
    return made.copy()


def allowed(grammar: Any) -> set[int] | None:
    """None: every token."""
    import torch

    mask = torch.full((1, 8), -1, dtype=torch.int32)
    grammar.fill_vocab_mask(mask, 0)
    bits = {no for no in range(256) if int(mask[0, no // 32]) >> (no % 32) & 1}
    return None if len(bits) == 256 else bits


def fed(grammar: Any, *tokens: int) -> Any:
    for token in tokens:
        grammar.accept_token(token)
    return grammar


def test_at_the_budget_only_the_end_of_the_thinking_may_follow() -> None:
    grammar = thinking(3)
    assert allowed(fed(grammar, WORD, WORD)) is None
    assert allowed(fed(grammar, WORD)) == {END}
    assert allowed(fed(grammar, END)) is None


@pytest.mark.parametrize("before", [(), (WORD, WORD)])
def test_a_call_ends_the_thinking_and_is_not_broken_off(before: tuple[int, ...]) -> None:
    grammar = fed(thinking(5), *before, CALL)
    for _ in range(20):
        assert allowed(fed(grammar, WORD)) is None
    grammar.rollback(21)
    assert allowed(fed(grammar, *[WORD] * 5)) == {END}


def test_where_only_a_call_at_a_lines_start_ends_the_thinking_none_does() -> None:
    """No parser of SGLang's is such a one; where lines begin is not looked for."""
    grammar = thinking(4, at_line_start=True)
    assert allowed(fed(grammar, WORD, CALL, WORD, WORD)) == {END}


def test_a_grammar_of_the_answer_begins_after_the_thinking_alone() -> None:
    """A call in the thinking would else have to be the answer."""
    inner = SimpleNamespace(copy=lambda: inner, fill_vocab_mask=None)
    grammar = fed(thinking(4, inner), WORD, WORD, CALL, WORD)
    assert allowed(grammar) == {END}


def counted(*steps: int | list[int]) -> int:
    """Tokens of thinking after these; one step may accept several."""
    from sglang.srt.managers.schedule_batch import Req

    thinking(5)  # from where it is known what begins a call
    request: Any = SimpleNamespace(
        _is_reasoning_over=False, _think_end_matcher=None, _think_end_match_len=0,
        reasoning_tokens=0, call_begins=Req.call_begins,
    )  # fmt: skip
    for step in steps:
        Req.update_reasoning_tokens(request, step, [END])
    return int(request.reasoning_tokens)


def test_the_thinking_that_usage_tells_ends_with_its_end_or_with_a_call() -> None:
    assert counted(WORD, WORD, END, WORD) == 3
    assert counted(WORD, WORD, CALL, WORD, WORD) == 2
    assert counted(CALL, WORD) == 0
    assert counted([WORD, WORD, CALL, WORD], [WORD]) == 2
    assert counted([WORD, END, WORD, CALL], WORD) == 2
