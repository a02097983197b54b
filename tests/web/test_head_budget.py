"""Each bound of a request's head, body pieces and trailers: just inside, and just outside."""

from __future__ import annotations

import pytest

from app.errors import BodyTooLarge, HeadersTooLarge
from app.web.head_budget import SEPARATORS, HeadBudget


def budget() -> HeadBudget:
    return HeadBudget(max_bytes=100, max_fields=3, max_pieces=2)


def test_the_bytes_of_url_and_fields_are_counted_together() -> None:
    head = budget()
    head.add(40)
    head.add(56 + SEPARATORS, fields=1)
    with pytest.raises(HeadersTooLarge, match=r"over 100 bytes \(MAX_HEADER_BYTES\)"):
        head.add(1)


def test_the_fields_are_counted() -> None:
    head = budget()
    for _ in range(3):
        head.add(1, fields=1)
    with pytest.raises(HeadersTooLarge, match=r"over 3 fields \(MAX_HEADERS\)"):
        head.add(1, fields=1)


def test_bytes_that_the_parser_keeps_count_too() -> None:
    head = budget()
    head.add(60)
    head.receive(40 + 64)  # 64: method, version and the empty line are not counted
    head.check_unparsed()
    head.receive(1)
    with pytest.raises(HeadersTooLarge):
        head.check_unparsed()


def test_bytes_that_the_parser_hands_out_are_not_counted_twice() -> None:
    head = budget()
    head.receive(90)
    head.add(90)
    head.check_unparsed()
    assert head.unparsed_bytes == 0


def test_more_bytes_handed_out_than_received_in_this_read_leave_none_unparsed() -> None:
    head = budget()
    head.receive(10)
    head.add(30)  # the parser kept 20 of them from an earlier request's last read
    assert head.unparsed_bytes == 0
    head.receive(134)
    head.check_unparsed()


def test_the_trailers_have_the_budget_of_a_head_for_themselves() -> None:
    head = budget()
    head.add(100, fields=3)
    head.end_head()
    head.add(100, fields=3)
    with pytest.raises(HeadersTooLarge):
        head.add(1, fields=1)


def test_the_pieces_of_a_body_are_counted() -> None:
    head = budget()
    head.end_head()
    head.add_piece()
    head.add_piece()
    with pytest.raises(BodyTooLarge, match="over 2 pieces"):
        head.add_piece()


def test_a_body_is_not_held_against_the_head() -> None:
    head = budget()
    head.end_head()
    head.receive(1_000_000)
    head.add_piece()
    head.check_unparsed()


def test_a_chunks_header_without_end_is_refused() -> None:
    head = budget()
    head.end_head()
    head.receive(165)
    with pytest.raises(HeadersTooLarge):
        head.check_unparsed()


def test_every_request_starts_with_a_full_budget() -> None:
    head = budget()
    for _ in range(3):
        head.receive(500)
        head.add(100, fields=3)
        head.end_head()
        head.add_piece()
        head.add_piece()
        head.add(100, fields=3)
        head.end_message()
        head.check_unparsed()


def test_a_large_body_may_have_many_pieces_that_are_not_small() -> None:
    head = budget()
    for _ in range(1000):
        head.receive(1024)
        head.add_piece()
    head = budget()
    head.receive(1024)  # with it there is room for one more
    for _ in range(3):
        head.add_piece()
    with pytest.raises(BodyTooLarge):
        head.add_piece()
