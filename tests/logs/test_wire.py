"""Lines of several processes, cut into pieces, in one pipe with raw text."""

from __future__ import annotations

import select
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.logs.wire import LINE_BYTES, Lines, pieces


def line(event: str) -> dict[str, Any]:
    return {"event": event, "level": "info", "logger": "sglang", "timestamp": "2026-11-26"}


def written(event: str, *, sender: int = 7, number: int = 0) -> list[bytes]:
    return list(pieces(orjson.dumps(line(event)), sender, number))


def events(lines: Lines, *texts: bytes) -> list[str]:
    return [each["event"] for text in texts for each in lines.feed(text)]


def test_no_piece_is_longer_than_what_the_kernel_writes_at_once() -> None:
    for each in written("x" * 20_000, sender=4_000_000, number=10**9):
        assert len(each) <= select.PIPE_BUF


@given(st.data())
def test_pieces_of_several_processes_in_any_order_and_cutting_are_their_lines(data: Any) -> None:
    senders = {
        sender: [
            piece
            for no in range(2)
            for piece in written(f"{sender} {no} " * 900, sender=sender, number=no)
        ]
        for sender in (1, 22)
    }
    text = b""
    while any(senders.values()):
        text += senders[data.draw(st.sampled_from([s for s in senders if senders[s]]))].pop(0)
    cut = data.draw(st.integers(0, len(text)))
    lines = Lines()
    assert sorted(events(lines, text[:cut], text[cut:])) == [
        f"{sender} {no} " * 900 for sender in (1, 22) for no in range(2)
    ]
    assert lines.lost == 0


def test_lines_that_were_not_written_are_counted() -> None:
    lines = Lines()
    first, second = written("x" * 6000, number=4)
    assert events(lines, *written("0"), *written("3", number=3), first) == ["0", "3"]
    assert lines.lost == 2
    assert events(lines, *written("5", number=5)) == ["5"]
    assert lines.lost == 3
    assert events(lines, *written("0", sender=8), second) == ["0", second[1:-1].decode()]


def test_a_line_after_raw_text_without_an_end_is_a_line() -> None:
    assert events(Lines(), b"  50%\r  51%" + written("ours")[0]) == ["  51%", "ours"]


@pytest.mark.parametrize(
    "text",
    [b"\x1e", b"\x1e1 2 3", b"\x1e1 2 0 {}", b"\x1e1 2 0 []", b"\x1ea b c {}", b"\x1e1 2 0 nothing",
     b'\x1e1 2 0 {"event": 1, "level": 2, "logger": 3, "timestamp": 4}', b"\xff\xfe", b"\x00"],
)  # fmt: skip
def test_whatever_is_written_is_read(text: bytes) -> None:
    lines = Lines()
    events(lines, text + b"\n")
    assert events(lines, *written("after it", sender=2)) == ["after it"]


@given(st.lists(st.binary()))
def test_any_text_is_lines_that_are_not_empty(texts: list[bytes]) -> None:
    lines = Lines()
    assert all((*events(lines, *texts), *(each["event"] for each in lines.finish())))


def test_what_has_no_end_yet_can_be_looked_at() -> None:
    lines = Lines()
    assert events(lines, b"a line\n  0%\r 50%") == ["a line"]
    assert lines.unfinished == b"  0%\r 50%"


def test_text_without_a_line_break_is_held_only_up_to_a_bound() -> None:
    lines = Lines()
    for _ in range(100):
        events(lines, b"x" * 65_536)
    assert len(lines._rest) <= LINE_BYTES
