"""Bodies with mistakes: refused by name, at once, without repeating them."""

from __future__ import annotations

import gc
import json
import time
from typing import Any

import pytest

from app.dialects.body import read
from app.dialects.routes import DIALECTS
from app.errors import InvalidRequest
from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {"messages": [0] * 400_000}, "messages[0]"),
        ("/v1/chat/completions", {"messages": [0] * 2000}, "messages[0]"),
        ("/v1/completions", {"prompt": [[]] * 90_000}, "prompt"),
        ("/v1/completions", {"prompt": "x", "stop": [1] * 400_000}, "stop"),
        (
            "/v1/completions",
            {"prompt": "x", "logit_bias": {f"k{n}": "x" for n in range(45_000)}},
            "logit_bias",
        ),
        ("/v1/completions", {"prompt": "x", "logit_bias": {"9" * 140_000: 1}}, "logit_bias"),
    ],
)
async def test_a_body_of_many_mistakes_is_refused_quickly_and_not_repeated(
    path: str, body: Any, param: str
) -> None:
    async with serve(ScriptedEngine("x")) as running:
        answer = await running.client.post(path, json=body)
        dialect = {each.path: each for each in DIALECTS}[path]
        # The client encodes half a million entries on the same loop: time the server's part alone.
        raw = json.dumps(body).encode()
        # Keep the collector from scanning the heap of the whole test suite.
        gc.collect()
        gc.freeze()
        try:
            began = time.thread_time()
            with pytest.raises(InvalidRequest):
                read(dialect.body, raw, running.serving.bounds, dialect.path)
            spent = time.thread_time() - began
        finally:
            gc.unfreeze()
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert len(answer.content) < 1000
    print(f"{len(raw)} bytes refused in {spent * 1e3:.0f} ms")
    assert spent < 0.25


async def test_a_harmless_value_of_another_type_is_refused() -> None:
    async with serve(ScriptedEngine("x")) as running:
        answer = await running.client.post(
            "/v1/completions", json={"prompt": "x", "use_beam_search": 0}
        )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "use_beam_search")
