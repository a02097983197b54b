"""Thousands of requests generated from the API's own description, most of them wrong somewhere:
none may end in a 5xx, and none may harm the engine."""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from openapi_spec_validator import validate

from tests.live.conftest import LiveServer
from tests.support.described import Generator

pytestmark = pytest.mark.live
CASES = int(os.environ.get("FUZZ_CASES", "5000"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))


def _canary(live: LiveServer) -> str:
    body = {"prompt": "One, two, three,", "max_tokens": 6, "temperature": 0}
    answer = live.http.post("/v1/completions", json=body).raise_for_status()
    return str(answer.json()["choices"][0]["text"])


def _content(item: dict[str, Any]) -> dict[str, Any]:
    """Of a path's POST: media type -> its schema and example."""
    content: dict[str, Any] = item.get("post", {}).get("requestBody", {}).get("content", {})
    return content


def test_no_generated_request_ends_in_a_5xx_or_harms_the_engine(live: LiveServer) -> None:
    document = live.get("/openapi.json").json()
    paths = {
        path: content["application/json"]
        for path, item in document["paths"].items()
        if "application/json" in (content := _content(item))
    }
    before, pids = _canary(live), live.engine_pids()
    chance = random.Random(SEED)
    maker = Generator(document, chance)
    cases = []
    kept = live.http.post("/v1/conversations", json={}).raise_for_status().json()["id"]
    for _ in range(CASES):
        path, content = chance.choice(list(paths.items()))
        path = path.replace("{conversation_id}", chance.choice([kept, "conv_1", "%00", "é"]))
        cases.append((path, maker.body(content["schema"], content["example"])))
    statuses: Counter[tuple[str, int]] = Counter()
    bad: list[str] = []

    def ask(case: tuple[str, Any]) -> None:
        path, body = case
        try:
            raw = json.dumps(body)
        except ValueError:
            return
        try:
            answer = live.http.post(path, content=raw)
        except httpx.HTTPError as error:
            bad.append(f"{path} {raw[:500]}: {error!r}")
            return
        statuses[path, answer.status_code] += 1
        if answer.status_code >= 500:
            bad.append(f"{path} {raw[:500]}: {answer.status_code} {answer.text[:300]}")
        elif answer.status_code != 200:
            keys = {"message", "type"}
            if not path.startswith("/v1/messages"):
                keys |= {"param", "code"}
            if set(answer.json()["error"]) != keys:
                bad.append(f"{path} {raw[:500]}: {answer.text[:300]}")
            if len(answer.content) > 4096:
                bad.append(f"{path} {raw[:500]}: an error of {len(answer.content)} bytes")
        elif '"server_error"' in answer.text:
            bad.append(f"{path} {raw[:500]}: {answer.text[-500:]}")

    started = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, cases))
    print(f"{len(cases)} cases, seed {SEED}, {time.monotonic() - started:.0f} s:")
    for (path, status), count in sorted(statuses.items()):
        print(f"  {path} {status}: {count}")
    assert not bad, "\n".join(bad[:10])
    assert live.engine_pids() == pids
    assert _canary(live) == before


def test_the_description_is_valid_and_its_examples_are_answered(live: LiveServer) -> None:
    document = live.get("/openapi.json").json()
    validate(document)
    for path, item in document["paths"].items():
        content = _content(item)
        if "application/json" not in content or path == "/v1/embeddings":
            continue  # a form: tests/files; or needs an embedding model: test_embeddings.py
        kept = live.http.post("/v1/conversations", json={}).raise_for_status().json()["id"]
        path = path.replace("{conversation_id}", kept)
        answer = live.http.post(path, json=content["application/json"]["example"])
        assert answer.status_code == 200, (path, answer.text)
