"""Sampling fields that chat, completions and `/generate` share, within the operator's bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve


@pytest.mark.parametrize(
    ("field", "fits", "too_much"),
    [
        ("stop", ["a", "b"], ["a", "b", "c"]),
        ("stop", "abcd", "abcde"),
        ("stop_token_ids", [1, 2], [1, 2, 3]),
        ("logit_bias", {"1": 1, "2": 1}, {"1": 1, "2": 1, "3": 1}),
        ("n", 2, 3),
    ],
)
async def test_the_operator_bounds_counts_and_lengths(field: str, fits: Any, too_much: Any) -> None:
    bounds = {
        "MAX_STOPS": "2", "MAX_STOP_CHARS": "4", "MAX_STOP_TOKEN_IDS": "2",
        "MAX_LOGIT_BIASES": "2", "MAX_CHOICES": "2",
    }  # fmt: skip
    async with serve(ScriptedEngine("x"), **bounds) as running:
        document = (await running.client.get("/openapi.json")).json()
        for value, status in ((fits, 200), (too_much, 400)):
            chat = await running.chat(**{field: value})
            native = await running.client.post(
                "/generate", json={"text": "x", "sampling_params": {field: value}}
            )
            assert (chat.status_code, native.status_code) == (status, status)
            if status == 400:
                assert chat.json()["error"]["param"].startswith(field)
                assert native.json()["error"]["param"].startswith(f"sampling_params.{field}")
    described = json.dumps(document["components"]["schemas"]["ChatBody"]["properties"][field])
    assert any(f'"{word}": 2' in described for word in ("maximum", "maxItems", "maxProperties"))


async def test_min_p_does_not_reach_an_engine_that_samples_deterministically() -> None:
    async with serve(ScriptedEngine("x", honours_seed=True)) as running:
        assert (await running.chat(min_p=0.1)).status_code == 400
        assert (await running.chat(min_p=0)).status_code == 200
