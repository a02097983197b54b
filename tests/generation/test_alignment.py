"""Tokens travel with the text that they wrote."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.events import ScoredToken, Token
from app.generation.alignment import Alignment


def _token(raw: bytes) -> ScoredToken:
    return ScoredToken(Token(1, raw, -1.0))


def test_a_token_waits_for_text_that_is_held_back() -> None:
    alignment = Alignment()
    assert alignment.feed("", [_token(b"STO")], last=False) == []
    ((token, text),) = alignment.feed("STO", [], last=False)
    assert (token and token.token.raw, text) == (b"STO", "STO")


def test_the_parts_of_a_character_come_with_the_last_of_them() -> None:
    raw = "🌦".encode()
    alignment = Alignment()
    pairs = alignment.feed("", [_token(raw[:2])], last=False)
    pairs += alignment.feed("🌦", [_token(raw[2:])], last=False)
    assert [text for _, text in pairs] == ["", "🌦"]


def test_a_token_that_was_cut_off_still_has_its_score() -> None:
    alignment = Alignment()
    pairs = alignment.feed("one ", [_token(b"one "), _token(b"STOP")], last=True)
    assert [text for _, text in pairs] == ["one ", ""]


def test_special_tokens_without_text_do_not_shift_the_rest() -> None:
    alignment = Alignment()
    tokens = [_token(b"<s>"), _token(b"a"), _token(b"</s>")]
    pairs = alignment.feed("a", tokens, last=True)
    assert [(token and token.offset, text) for token, text in pairs] == [(0, ""), (0, "a"), (1, "")]


@given(st.lists(st.binary(min_size=1, max_size=6), max_size=12), st.data())
def test_nothing_is_lost_or_reordered(raws: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(raws).decode(errors="replace")
    alignment = Alignment()
    pairs = []
    at = 0
    for raw in raws:
        upto = data.draw(st.integers(at, len(whole)))
        pairs += alignment.feed(whole[at:upto], [_token(raw)], last=False)
        at = upto
    pairs += alignment.feed(whole[at:], [], last=True)
    assert [token.token.raw for token, _ in pairs if token] == raws
    assert "".join(text for _, text in pairs) == whole
