"""Adapters as models: asked for by name in every dialect, listed, loaded by the operator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.engine.stand_in import Options, StandIn
from tests.support.adapters import write_adapter
from tests.support.serving import Running, eventually, serve

ADMIN = {"authorization": "Bearer operator"}
HI = [{"role": "user", "content": "hi"}]
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "sql", "messages": HI},
    "/v1/completions": {"model": "sql", "prompt": "hi"},
    "/v1/responses": {"model": "sql", "input": "hi"},
    "/v1/messages": {"model": "sql", "messages": HI, "max_tokens": 9},
    "/generate": {"lora_path": "sql", "text": "hi"},
}


@asynccontextmanager
async def serving(tmp_path: Path, **environment: str) -> AsyncIterator[Running]:
    write_adapter(tmp_path / "sql")
    write_adapter(tmp_path / "lazy" / "law")
    write_adapter(tmp_path / "lazy" / "broken", tensors={"x": [1]})
    environment = {
        "SERVED_MODEL_NAME": "base",
        "LORA_MODULES": f'[{{"name": "sql", "path": "{tmp_path}/sql"}}]',
        "LORA_FOLDER": str(tmp_path / "lazy"),
        "ADMIN_API_KEY": "operator",
    } | environment
    engine = StandIn(Options(token_s=0.0), serves_adapters=True)
    async with serve(engine, **environment) as running:
        yield running


async def test_each_is_a_model_with_the_base_as_its_parent(tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        cards = (await running.client.get("/v1/models")).json()["data"]
        one = (await running.client.get("/v1/models/sql")).json()
        anthropics = await running.client.get("/v1/models", headers={"anthropic-version": "x"})
    assert [(card["id"], card["parent"]) for card in cards] == [
        ("base", None), ("broken", "base"), ("law", "base"), ("sql", "base"),
    ]  # fmt: skip
    assert (one["id"], one["root"], one["parent"]) == ("sql", "base", "base")
    assert [card["id"] for card in anthropics.json()["data"]] == ["base", "broken", "law", "sql"]


@pytest.mark.parametrize("path", REQUESTS)
@pytest.mark.parametrize("stream", [False, True])
async def test_it_answers_in_every_dialect_under_its_own_name(
    tmp_path: Path, path: str, stream: bool
) -> None:
    async with serving(tmp_path) as running:
        body = REQUESTS[path] | {"stream": stream}
        answer = (await running.client.post(path, json=body)).text
        assert '"sql ' in answer
        if path != "/generate":
            assert '"model":"sql"' in answer
        other = {"lora_path": None} if path == "/generate" else {"model": "base"}
        assert "sql" not in (await running.client.post(path, json=body | other)).text


@pytest.mark.parametrize("path", REQUESTS)
async def test_one_that_is_not_there_is_404_by_the_field(tmp_path: Path, path: str) -> None:
    field = "lora_path" if path == "/generate" else "model"
    async with serving(tmp_path) as running:
        for name in ("nothing", "../sql", "broken"):
            body = REQUESTS[path] | {field: name}
            for stream in (False, True):
                response = await running.client.post(path, json=body | {"stream": stream})
                assert response.status_code == 404, response.text
                assert str(tmp_path) not in response.text


COUNTED: dict[str, dict[str, Any]] = {
    "/tokenize": {"prompt": "hi"},
    "/detokenize": {"tokens": [1]},
    "/v1/messages/count_tokens": {"messages": HI},
    "/v1/responses/input_tokens": {"input": "hi"},
}


@pytest.mark.parametrize("path", COUNTED)
async def test_tokens_are_counted_for_one_that_is_there_and_it_is_not_loaded(
    tmp_path: Path, path: str
) -> None:
    async with serving(tmp_path) as running:
        for name, status in [("base", 200), ("sql", 200), ("law", 200), ("nothing", 404)]:
            response = await running.client.post(path, json=COUNTED[path] | {"model": name})
            assert response.status_code == status, response.text
        assert list(running.engine.adapters.values()) == ["sql"]


async def test_those_of_the_folder_are_loaded_when_they_are_asked_for(tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        assert list(running.engine.adapters.values()) == ["sql"]
        response = await running.client.post(
            "/v1/chat/completions", json={"model": "law", "messages": HI}
        )
        assert response.json()["choices"][0]["message"]["content"] == "law said: hi"
        assert sorted(running.engine.adapters.values()) == ["law", "sql"]


async def test_the_operator_loads_and_unloads(tmp_path: Path) -> None:
    write_adapter(tmp_path / "new")
    body = {"lora_name": "new", "lora_path": str(tmp_path / "new")}
    async with serving(tmp_path) as running:
        post = running.client.post
        assert (await post("/v1/load_lora_adapter", json=body)).status_code == 401
        loaded = await post("/v1/load_lora_adapter", json=body, headers=ADMIN)
        assert loaded.json()["success"] is True
        assert sorted(loaded.json()["loaded_adapters"]) == ["new", "sql"]
        chat = {"model": "new", "messages": HI}
        assert "new said" in (await post("/v1/chat/completions", json=chat)).text
        twice = await post("/load_lora_adapter", json=body, headers=ADMIN)
        assert (twice.status_code, twice.json()["error"]["param"]) == (400, "lora_name")
        gone = await post("/v1/unload_lora_adapter", json={"lora_name": "new"}, headers=ADMIN)
        assert sorted(gone.json()["loaded_adapters"]) == ["sql"]
        assert (await post("/v1/chat/completions", json=chat)).status_code == 404
        again = await post("/unload_lora_adapter", json={"lora_name": "new"}, headers=ADMIN)
        assert again.status_code == 404


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"lora_name": "x"}, "lora_path"),
        ({"lora_path": "/x"}, "lora_name"),
        ({"lora_name": "base", "lora_path": "/x"}, "lora_name"),
        ({"lora_name": "default", "lora_path": "/x"}, "lora_name"),
        ({"lora_name": "a b", "lora_path": "/x"}, "lora_name"),
        ({"lora_name": "x", "lora_path": "/nowhere"}, "adapter_config.json cannot be read"),
    ],
)
async def test_the_operators_mistakes_are_named(
    tmp_path: Path, body: dict[str, str], says: str
) -> None:
    async with serving(tmp_path) as running:
        response = await running.client.post("/v1/load_lora_adapter", json=body, headers=ADMIN)
    assert response.status_code == 400
    assert says in response.text


async def test_without_the_setting_there_are_none(tmp_path: Path) -> None:
    write_adapter(tmp_path / "sql")
    body = {"lora_name": "sql", "lora_path": str(tmp_path / "sql")}
    async with serve(StandIn(Options()), ADMIN_API_KEY="operator") as running:
        response = await running.client.post("/v1/load_lora_adapter", json=body, headers=ADMIN)
        assert response.status_code == 400
        assert "ENABLE_LORA" in response.text
        chat = {"model": "sql", "messages": HI}
        assert (await running.client.post("/v1/chat/completions", json=chat)).status_code == 404


async def test_a_client_that_leaves_gives_its_adapter_back(tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        running.engine._options = Options(token_s=0.02, words=10_000)
        assert running.serving.host.model is not None
        known = running.serving.host.model.adapters
        assert known is not None
        chat = {"model": "sql", "messages": HI, "stream": True}
        async with running.client.stream("POST", "/v1/chat/completions", json=chat) as response:
            lines = response.aiter_lines()  # whose end would close the response
            await anext(lines)
            unloading = asyncio.create_task(
                running.client.post(
                    "/v1/unload_lora_adapter", json={"lora_name": "sql"}, headers=ADMIN
                )
            )
            await eventually(lambda: "sql" not in known.loaded())
            assert list(running.engine.adapters.values()) == ["sql"]
        assert (await unloading).status_code == 200
        assert not running.engine.adapters
