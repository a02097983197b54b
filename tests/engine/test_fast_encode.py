"""The shorter way to token ids gives the same ids, and other threads run on meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import models

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("ignore")]


@cache
def tokenizers() -> tuple[Any, Any]:
    """As it comes, and with the shorter way."""
    from transformers import AutoTokenizer

    from app.engine.sglang.fast_encode import use_fast_encode

    usual, quick = (AutoTokenizer.from_pretrained(models.find("tiny")) for _ in range(2))
    use_fast_encode(quick)
    assert "encode" in vars(quick)
    return usual, quick


@given(st.text(max_size=60), st.sampled_from([1, 40, 400]), st.booleans())
def test_the_ids_are_the_same_however_long_the_text(text: str, times: int, special: bool) -> None:
    usual, quick = tokenizers()
    text = f"{text} <|im_start|>" * times
    assert quick.encode(text, add_special_tokens=special) == usual.encode(
        text, add_special_tokens=special
    )


def _longest_pause(work: Callable[[], object]) -> tuple[float, float]:
    """Of this thread while another works; and how long that takes. Seconds."""
    took: list[float] = []

    def run() -> None:
        time.sleep(0.05)  # this thread does not wait for the start any more
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)

    thread = threading.Thread(target=run)
    thread.start()
    longest, last = 0.0, time.perf_counter()
    while not took:
        time.sleep(0.0005)  # what is measured: how late it ends
        longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
    thread.join()
    return longest, took[0]


def test_a_long_text_leaves_other_threads_running() -> None:
    _, quick = tokenizers()
    text = "a b " * 500_000
    seen = [_longest_pause(lambda: quick.encode(text)) for _ in range(3)]
    assert min(pause / took for pause, took in seen) < 0.25
