"""What every request gets: a corrected path, headers, an id."""

from __future__ import annotations

import httpx
import pytest
from structlog.testing import capture_logs

from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve


@pytest.mark.parametrize(
    "path", ["//v1/models", "/v1//models", "/v1/models/", "/v1/v1/models", "/v1/models"]
)
async def test_slips_in_the_path_are_corrected(path: str) -> None:
    async with serve(ScriptedEngine("x")) as running:
        url = f"http://127.0.0.1:{running.port}{path}"
        assert (await running.client.get(url)).status_code == 200


async def test_head_is_answered_like_get_without_a_body() -> None:
    async with serve(ScriptedEngine("x")) as running:
        for path in ("/", "/health", "/livez", "/readyz", "/ping", "/metrics", "/v1/models"):
            answer = await running.client.head(path)
            assert (answer.status_code, answer.content) == (200, b"")


async def test_every_answer_has_our_headers() -> None:
    settings = {"HATHORA_REGION": "seattle", "HATHORA_NETWORKING": "false"}
    async with serve(ScriptedEngine("x"), **settings) as running:
        answers = [
            await running.chat(), await running.chat(stream=True), await running.chat(n=-1),
            await running.client.get("/health"), await running.client.get("/nowhere"),
            await running.client.put("/v1/models"),
        ]  # fmt: skip
    for answer in answers:
        assert answer.headers["x-hathora-region"] == "seattle"
        assert float(answer.headers["x-process-time"]) >= 0
        assert len(answer.headers["x-request-id"]) == 32


@pytest.mark.parametrize(
    ("client_id", "kept"),
    [("abc-1.2_3", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ("é", False)],
)
async def test_a_well_formed_request_id_is_kept(client_id: str, kept: bool) -> None:
    async with serve(ScriptedEngine("x")) as running:
        headers = {"x-request-id": client_id.encode()}
        answer: httpx.Response = await running.client.get("/livez", headers=headers)
    assert (answer.headers["x-request-id"] == client_id) is kept


async def test_the_engine_never_gets_the_clients_id() -> None:
    engine = ScriptedEngine("x")
    async with serve(engine) as running:
        body = {"messages": [{"role": "user", "content": "x"}], "rid": "a", "request_id": "a"}
        headers = {"x-request-id": "a", "x-override-rid": "a"}
        await running.client.post("/v1/chat/completions", json=body, headers=headers)
    assert len(engine.calls[0][2]) == 32


async def test_a_long_path_costs_the_log_few_bytes() -> None:
    with capture_logs() as lines:
        async with serve(ScriptedEngine("x")) as running:
            await running.client.get("/" + "a" * 8000)
    paths = [line["path"] for line in lines if "path" in line]
    assert len(paths) == 2
    assert all(len(path) == 200 for path in paths)
