"""What clients keep for the server is opened by it alone, and only unchanged."""

from __future__ import annotations

import base64

from hypothesis import given
from hypothesis import strategies as st

from app.dialects import sealing
from app.dialects.sealing import Opening, Seal


@given(st.text(), st.binary(max_size=8))
def test_what_is_sealed_is_opened_again(text: str, owner: bytes) -> None:
    seal = Seal(["secret"])
    assert (
        Seal(["secret"]).open(seal.close(text, owner), owner)
        == text.encode(errors="replace").decode()
    )


@given(st.integers(0, 200), st.integers(1, 255))
def test_a_changed_byte_makes_it_unreadable(at: int, by: int) -> None:
    seal = Seal(["secret"])
    sealed = seal.close("some thinking")
    raw = bytearray(base64.urlsafe_b64decode(sealed[3:]))
    raw[at % len(raw)] ^= by
    assert seal.open("r1." + base64.urlsafe_b64encode(raw).decode()) is None


def test_another_owner_and_another_secret_open_nothing() -> None:
    sealed = Seal(["secret"]).close("x", b"a")
    assert Seal(["secret"]).open(sealed, b"b") is None
    assert Seal(["other"]).open(sealed, b"a") is None
    assert Seal(()).open(sealed, b"a") is None


def test_a_secret_that_was_replaced_still_opens() -> None:
    sealed = Seal(["old"]).close("x")
    assert Seal(["new", "old"]).open(sealed) == "x"
    assert Seal(["new", "old"]).close("x") != sealed
    assert Seal(["old"]).open(Seal(["new", "old"]).close("x")) is None


def test_what_others_have_made_is_not_opened() -> None:
    seal = Seal(["secret"])
    for foreign in ("", "r1.", "r1.AAAA", "r1.\udcff", "gAAAAABo", "sglang-reasoning-v1.eJw="):
        assert seal.open(foreign) is None


def test_a_text_that_grows_beyond_all_bounds_is_not_opened() -> None:
    seal = Seal(["secret"])
    bomb = seal.close("x" * (sealing._MOST_OPENED + 1))
    assert len(bomb) < 100_000
    assert seal.open(bomb) is None


def test_all_that_one_request_brings_is_bounded_together() -> None:
    seal = Seal(["secret"])
    third = seal.close("x" * (sealing._MOST_OPENED // 3))
    opening = Opening(seal)
    opened = [opening.open(third) for _ in range(5)]
    assert [each is not None for each in opened] == [True, True, True, False, False]
    assert opening.failed == 2
