"""Prompts are compared with the most similar one before."""

from __future__ import annotations

import random
import time

from hypothesis import given
from hypothesis import strategies as st

from app.generation.prefixes import Prefixes, place_of
from app.stats import Prefix
from app.types import Message, Text

Ids = list[int]


def text_of(ids: object) -> str:
    return "".join(map(chr, ids))  # type: ignore[call-overload]


def prefixes(most_tokens: int = 10**6) -> Prefixes:
    return Prefixes(most_tokens=most_tokens)


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
    assert len(known._owners) == 1
    assert known.note("a", [0] * 300) is None
    assert known.note("a", [49] * 300) == Prefix(300, 300)


def test_who_sends_much_pushes_out_their_own_prompts() -> None:
    known = prefixes(most_tokens=1000)
    known.note("a", [1] * 300)
    for no in range(50):
        known.note("b", [no] * 300)
    assert known.note("a", [1] * 300) == Prefix(300, 300)
    assert sum(owner.tokens for owner in known._owners.values()) == known._tokens


def test_a_short_prompt_is_not_kept() -> None:
    known = prefixes()
    known.note("a", [1] * 255)
    assert known.note("a", [1] * 300) is None


_PROMPTS = st.lists(st.lists(st.integers(0, 1), min_size=256, max_size=500), max_size=8)


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


def place(texts: list[str], at: int, said: list[Message] | None = None, end: str = "") -> str:
    ids = [ord(each) for each in "".join(texts) + end]
    return place_of(at, ids, messages(*texts) if said is None else said, text_of)


def test_a_difference_is_told_by_its_message() -> None:
    texts = ["the rules are these: " * 20, "what time is it in Rome, please?", "and the next one?"]
    for no, text in enumerate(texts):
        begins = "".join(texts).index(text)
        for at in (begins + 1, begins + 8, begins + len(text.rstrip()) - 1):
            assert place(texts, at) == f"message {no + 1} of 3 (user)"
    assert "tools" in place_of(5, [ord("#")] * 100, messages("a"), text_of)


def test_a_text_that_stands_twice_is_told_by_its_place() -> None:
    """Agents read the same file again and again."""
    file = "def spider() -> int:\n    return 8\n" * 9
    texts = ["read it", file, "again", file, "now change it"]
    assert place(texts, len("read it") + 50).startswith("message 2 ")
    assert place(texts, len("read it" + file + "again") + 50).startswith("message 4 ")


def test_a_text_that_the_template_leaves_out_misleads_nothing() -> None:
    said = messages("first", "second is here", "and the third")
    said[1] = Message(role="assistant", parts=said[1].parts, reasoning="Let me think. " * 50)
    texts = ["first", "second is here", "and the third"]
    assert place(texts, len("first") + 7, said) == "message 2 of 3 (assistant)"
    assert place(texts, len("first" + "second is here") + 3, said) == "message 3 of 3 (user)"


def test_a_place_is_found_within_milliseconds_of_the_thread() -> None:
    said = messages(*[f"{no} is the number of this message. " * 28 for no in range(2000)])
    text = "".join(message.parts[0].text for message in said)
    ids = list(map(ord, text))
    began = time.process_time()
    assert place_of(len(ids) - 9, ids, said, text_of).startswith("message 2000 ")
    missing = messages(*[f"never {no}" for no in range(2000)])
    assert "tools" in place_of(len(ids) - 9, ids, missing, text_of)
    assert time.process_time() - began < 2


def test_a_comparison_takes_little_time() -> None:
    known, draw = prefixes(), random.Random(1)
    prompt = [draw.randrange(100_000) for _ in range(20_000)]
    known.note("a", prompt)
    began = time.process_time()
    for no in range(20):
        known.note("a", [*prompt, no])
    assert (time.process_time() - began) / 20 < 0.02
