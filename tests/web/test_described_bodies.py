"""Bodies made from the API's description, most of them wrong somewhere: none is the server's fault.

FUZZ_CASES=50000 FUZZ_SEED=7 pytest tests/web/test_described_bodies.py

tests/live/test_fuzz.py asks the real engine the same.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

from app.engine.scripted import ScriptedEngine
from tests.support.described import Generator
from tests.support.serving import serve

CASES = int(os.environ.get("FUZZ_CASES", "3000"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))


def described(document: dict[str, Any]) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Path, schema and example of each body."""
    found = []
    for path, item in document["paths"].items():
        body = item.get("post", {}).get("requestBody", {}).get("content", {})
        if (content := body.get("application/json")) is not None:
            found.append((path, content["schema"], content.get("example", {})))
    return found


async def test_no_body_made_from_the_description_is_the_servers_fault(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    bad = []
    stores = {"STORE_URL": "memory", "FILE_STORAGE_PATH": str(tmp_path)}
    async with serve(ScriptedEngine("hi"), **stores) as running:
        document = (await running.client.get("/openapi.json")).json()
        maker, bodies = Generator(document, chance), described(document)
        kept = (await running.client.post("/v1/conversations", json={})).json()["id"]
        for _ in range(CASES):
            path, schema, example = chance.choice(bodies)
            raw = json.dumps(maker.body(schema, example))
            path = path.replace("{conversation_id}", kept)
            answer = await running.client.post(path, content=raw)
            if answer.status_code >= 500 or '"server_error"' in answer.text:
                bad.append(f"{path} {raw[:400]}: {answer.status_code} {answer.text[:200]}")
    assert not bad, f"{len(bad)}:\n" + "\n".join(bad[:10])
