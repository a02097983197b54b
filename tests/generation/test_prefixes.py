"""Prompts are compared with the most similar one before."""

from __future__ import annotations

import random
import time

from hypothesis import given
from hypothesis import strategies as st

from app.generation.prefixes import Prefixes, place_of
from app.stats import Prefix
from app.types import ChatPrompt, GenerationRequest, Message, Sampling, Text

Ids = list[int]


def text_of(ids: object) -> str:
    return "".join(map(chr, ids))  # type: ignore[call-overload]


def prefixes(most_tokens: int = 10**6) -> Prefixes:
    return Prefixes(text_of, most_tokens=most_tokens)


def test_the_next_turn_goes_on_from_the_last() -> None:
    known, first = prefixes(), list(range(300))
    assert known.note("a", first) is None
    assert known.note("a", [*first, 7, 8]) == Prefix(300, 300)
    assert known.note("a", [*first, 7, 8, 9]) == Prefix(302, 302)


def test_the_first_difference_is_found_to_the_token() -> None:
    known, first = prefixes(), list(range(1000))
    known.note("a", first)
    changed = [*first[:517], -1, *first[518:]]
    assert known.note("a", changed) == Prefix(517, 1000)


def test_prompts_of_others_are_not_compared() -> None:
    known = prefixes()
    known.note("a", list(range(300)))
    assert known.note("b", list(range(300))) is None


def test_the_prompts_that_are_kept_are_bounded() -> None:
    known = prefixes(most_tokens=1000)
    for no in range(50):
        known.note("a", [no] * 300)
    assert known._tokens <= 1000
    assert len(known._ends) <= 2 * len(known._prompts)
    assert known.note("a", [0] * 300) is None
    assert known.note("a", [49] * 300) == Prefix(300, 300)


_PROMPTS = st.lists(st.lists(st.integers(0, 1), min_size=128, max_size=400), max_size=8)


@given(_PROMPTS)
def test_what_is_said_is_true_of_some_earlier_prompt(prompts: list[Ids]) -> None:
    known = prefixes()
    for no, prompt in enumerate(prompts):
        shared = known.note("a", prompt)
        if shared is None:
            assert all(before[:128] != prompt[:128] for before in prompts[:no])
        else:
            assert any(
                (
                    len(before) == shared.earlier
                    and before[: shared.tokens] == prompt[: shared.tokens]
                    and before[shared.tokens : shared.tokens + 1]
                    != prompt[shared.tokens : shared.tokens + 1]
                )
                or before == prompt
                for before in prompts[:no]
            )


def messages(*texts: str) -> list[Message]:
    return [Message(role="user", parts=(Text(text),)) for text in texts]


def test_a_difference_is_told_by_its_message() -> None:
    texts = ["the rules are these: " * 20, "what time is it in Rome, please?", "and the next one?"]
    ids = [ord(each) for each in "".join(texts)]
    for no, text in enumerate(texts):
        at = "".join(texts).index(text) + 8
        assert place_of(at, ids, messages(*texts), text_of) == f"messages[{no}]"
    assert "tools" in place_of(5, [ord("#")] * 100, messages("a"), text_of)


def test_a_request_whose_past_has_changed_is_told_where() -> None:
    known = prefixes()

    def compare(*texts: str) -> Prefix | None:
        said = messages(*texts)
        request = GenerationRequest(id="x", prompts=(ChatPrompt(said),), sampling=Sampling())
        return known.compare(request, [ord(each) for each in "".join(texts)], "owner")

    rules = "Answer in one short sentence, and never guess. " * 10
    assert compare(rules, "It is Monday. What is the capital of France?") is None
    shared = compare(rules, "It is Tuesday. What is the capital of France?")
    assert shared is not None
    assert (shared.tokens, shared.differs_in) == (len(rules) + 6, "messages[1]")


def test_a_comparison_takes_little_time() -> None:
    known, draw = prefixes(), random.Random(1)
    prompt = [draw.randrange(100_000) for _ in range(20_000)]
    known.note("a", prompt)
    began = time.process_time()
    for no in range(20):
        known.note("a", [*prompt, no])
    assert (time.process_time() - began) / 20 < 0.02
