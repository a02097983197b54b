"""Bounds of a body's JSON, before it is parsed: depth, nodes, and what measuring them costs."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.dialects.body import read
from app.dialects.json_shape import shape
from app.dialects.openai.completions import CompletionBody
from app.errors import InvalidRequest
from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


@pytest.mark.parametrize(
    ("inside", "outside", "message"),
    [
        (nested(63), nested(64), "nested over 64 levels deep (MAX_JSON_DEPTH)"),
        (["s"] * 995, ["s"] * 996, "holds over 1000 values (MAX_JSON_NODES)"),
        ([None] * 995, [True] * 996, "holds over 1000 values (MAX_JSON_NODES)"),
        ([[]] * 995, [{}] * 996, "holds over 1000 values (MAX_JSON_NODES)"),
        ({str(n): "" for n in range(497)}, {str(n): "" for n in range(498)}, "MAX_JSON_NODES"),
        ([1] * 9959, [1] * 9960, "holds over 1000 values (MAX_JSON_NODES)"),
    ],
)
async def test_depth_and_size_of_the_json_are_bounded(
    inside: Any, outside: Any, message: str
) -> None:
    async with serve(ScriptedEngine("x"), MAX_JSON_NODES="1000") as running:
        for extra, status in ((inside, 200), (outside, 400)):
            body = {"prompt": "x", "metadata": extra}  # the rest of the body: four nodes
            answer = await running.client.post("/v1/completions", json=body)
            assert answer.status_code == status, answer.text
    assert answer.json()["error"]["code"] == "invalid_json"
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "prompt", [[128_000] * 131_072, [[1] * 8192] * 64, [[n] for n in range(64)]]
)
async def test_long_prompts_of_token_ids_are_within_the_bounds(prompt: list[Any]) -> None:
    async with serve(ScriptedEngine("x")) as running:
        raw = json.dumps({"prompt": prompt}).encode()
        read(CompletionBody, raw, running.serving.bounds, "/v1/completions")


def counted(value: Any) -> tuple[int, int, int]:
    """Of a parsed value: depth, nodes that are not numbers, and numbers."""
    match value:
        case dict() | list():
            parts = list(value.values() if isinstance(value, dict) else value)
            below = [counted(part) for part in parts]
            depth = max((depth for depth, _, _ in below), default=0)
            keys = len(value) if isinstance(value, dict) else 0
            return 1 + depth, 1 + keys + sum(n for _, n, _ in below), sum(n for _, _, n in below)
        case bool() | None | str():
            return 0, 1, 0
        case _:
            return 0, 0, 1


TEXTS = st.text() | st.text(alphabet='\\"[]{},: tfn\n\x00é')
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=40,
)  # fmt: skip


@hypothesis_settings(max_examples=200, deadline=None)
@given(VALUES, st.sampled_from([None, 0, 3]), st.booleans())
def test_the_measured_shape_is_the_shape_of_the_parsed_value(
    value: Any, indent: int | None, ascii_only: bool
) -> None:
    raw = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    depth, nodes, numbers = counted(value)
    assert shape(raw, 10**9) == (depth, nodes + numbers // 10)
    if nodes:
        assert shape(raw, nodes - 1).nodes > nodes - 1


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.text(alphabet='\\"[]{},:1 tfn\n') | st.binary())
def test_invalid_json_can_be_measured_and_valid_json_hides_no_depth(text: str | bytes) -> None:
    raw = text if isinstance(text, bytes) else text.encode()
    depth, nodes = shape(raw, 10**9)
    assert depth <= nodes
    try:
        value = json.loads(raw)
    except ValueError:
        return
    assert depth == counted(value)[0]


SIZE = 4 * 1024 * 1024
HOSTILE = [
    b'"', b"\\", b'\\"', b'\\\\"', b"\\\\a", b'"\\', b'ab\\"c', b"[", b"]", b"{", b"[]", b"[],",
    b"{}]", b",", b":", b" ", b"t", b"0,", b'"",', b'{"a":[true,null,1.5,"\\\\\\"x"]},', b"\xff",
]  # fmt: skip


@pytest.mark.parametrize("start", [b"", b'"', b'{"a":"'])
@pytest.mark.parametrize("pattern", HOSTILE)
def test_measuring_hostile_json_takes_no_longer(pattern: bytes, start: bytes) -> None:
    raw = (start + pattern * (SIZE // len(pattern)))[:SIZE]

    def measuring_s() -> float:
        began = time.thread_time()
        shape(raw, 100_000)
        return time.thread_time() - began

    assert any(measuring_s() < 0.1 for _ in range(3))


def test_the_most_expensive_shape_within_the_bounds_is_cheap_to_measure() -> None:
    raw = b"[" * 100_000 + b"]" * 100_000
    began = time.thread_time()
    assert shape(raw, 100_000) == (100_000, 100_000)
    assert time.thread_time() - began < 0.1


async def test_json_that_is_too_deep_is_refused_before_it_is_parsed() -> None:
    async with serve(ScriptedEngine("x")) as running:
        with pytest.raises(InvalidRequest, match="MAX_JSON_DEPTH"):
            read(CompletionBody, b"[" * 65 + b"]" * 65, running.serving.bounds, "/v1/completions")
        with pytest.raises(InvalidRequest, match="must be a JSON object"):
            read(CompletionBody, b"[" * 64 + b"]" * 64, running.serving.bounds, "/v1/completions")
