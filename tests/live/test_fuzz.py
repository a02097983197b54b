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

pytestmark = pytest.mark.live
CASES = int(os.environ.get("FUZZ_CASES", "5000"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
SHORT = {"max_tokens": 2, "max_completion_tokens": 2, "max_new_tokens": 2, "max_output_tokens": 2}
"""Upper bounds for these fields, so that valid requests do not take long."""

STRANGE: list[Any] = [
    None, True, False, 0, 1, -1, 2, 20, 0.5, 1.0, -0.0, 1e308, 2**31, 2**63, -(2**63), 2**70, "",
    "a", "0", "\0", "🌦️", "x" * 5000, "<|im_end|>", "../../etc/passwd", "{{ 7 * 7 }}", "(a+)+$", [],
    {}, [[]], [None], [0], [-1], [49151], [49152], [1.5], ["a"], [{}], {"a": 1}, {"type": "object"},
    {"type": "text"}, {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, "auto",
    {"$ref": "#"}, {"0": 100}, {"49152": 1}, {"1": 1e39}, [[1], [2]], "required", "none",
]  # fmt: skip
TEXTS = ["hi", "", "🌦️ Łódź", "a b c", "get_weather", "user", "function", "<|im_start|>user", "\\"]


class Generator:
    """Values that follow a JSON schema, and now and then values that do not."""

    def __init__(self, document: dict[str, Any], chance: random.Random) -> None:
        self._schemas = document["components"]["schemas"]
        self._chance = chance

    def body(self, schema: dict[str, Any], example: dict[str, Any]) -> Any:
        if self._chance.random() < 0.02:
            return self._chance.choice(STRANGE)
        made = self._object(self._resolved(schema), 0.12)
        body = {**example, **made}
        for name in list(body):
            if self._chance.random() < 0.02:
                del body[name]
        # Without it, the answer could go on to the end of the context.
        if "prompt" in example or "messages" in example:
            body["max_tokens"] = body.get("max_tokens") or 2
        if "input" in example:
            body["max_output_tokens"] = body.get("max_output_tokens") or 2
        if "text" in example and not isinstance(body.get("sampling_params"), list):
            body["sampling_params"] = body.get("sampling_params") or {"max_new_tokens": 2}
        return _shortened(body)

    def value(self, schema: dict[str, Any], depth: int = 0) -> Any:
        chance = self._chance
        if chance.random() < 0.12 or depth > 6:
            return chance.choice(STRANGE)
        schema = self._resolved(schema)
        for word in ("anyOf", "oneOf"):
            if word in schema:
                return self.value(chance.choice(schema[word]), depth + 1)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return chance.choice(schema["enum"])
        match schema.get("type"):
            case "object":
                return self._object(schema, 0.5, depth)
            case "array":
                items = schema.get("items", {})
                return [self.value(items, depth + 1) for _ in range(chance.choice([0, 1, 1, 2, 3]))]
            case "integer":
                low, high = schema.get("minimum", -3), schema.get("maximum", 70)
                return chance.choice([low, high, low - 1, high + 1, chance.randint(0, 9)])
            case "number":
                low, high = schema.get("minimum", -3), schema.get("maximum", 3)
                return chance.choice([low, high, high * 1.01, chance.uniform(low, high)])
            case "boolean":
                return chance.random() < 0.5
            case "null":
                return None
            case "string":
                return chance.choice(TEXTS)
        return chance.choice(STRANGE)

    def _object(self, schema: dict[str, Any], often: float, depth: int = 0) -> dict[str, Any]:
        required = schema.get("required", ())
        made = {
            name: self.value(each, depth + 1)
            for name, each in schema.get("properties", {}).items()
            if self._chance.random() < (0.9 if name in required else often)
        }
        if self._chance.random() < 0.03:
            made[self._chance.choice(["rid", "lora_path", "extra", "custom_logit_processor"])] = (
                self._chance.choice(STRANGE)
            )
        return made

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in schema:
            schema = self._schemas[schema["$ref"].rsplit("/", 1)[1]]
        return schema


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: SHORT[key] if key in SHORT and isinstance(each, int | None) else _shortened(each)
            for key, each in value.items()
        }
    return [_shortened(each) for each in value] if isinstance(value, list) else value


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
