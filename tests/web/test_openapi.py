"""The description of the API: complete, and true of the answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from app.lifecycle import Phase
from app.types import Json
from app.web import answers
from app.web.app import description
from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve, settings


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def validator(document: Json, schema: Json) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": document["components"]})


@pytest.mark.parametrize(
    "environment", [{}, {"API_KEY": "a"}, {"ADMIN_API_KEY": "b"}, {"UI": "false"}]
)
def test_it_is_made_without_a_server_and_is_valid(environment: dict[str, str]) -> None:
    document = description(settings(**environment))
    validate(document)
    for method, path, operation in operations(document):
        assert operation["summary"], path
        assert operation["tags"], path
        assert "422" not in operation["responses"], path
        assert "content" in operation["responses"]["200"] or path.endswith("/compact"), path
        for status, answer in operation["responses"].items():
            for content in answer.get("content", {}).values():
                assert content["schema"], (method, path, status)
    assert "/ui/events" not in document["paths"]


async def test_a_server_gives_the_same_document() -> None:
    async with serve(ScriptedEngine("x"), API_KEY="k") as running:
        given = (await running.client.get("/openapi.json")).json()
    assert given == description(running.serving.settings)


def test_there_is_a_button_for_a_key_only_where_one_is_wanted() -> None:
    plain = description(settings())
    assert "securitySchemes" not in plain["components"]
    assert "security" not in plain
    keyed = description(settings(API_KEY="k", ADMIN_API_KEY="a"))
    assert {each["scheme"] for each in keyed["components"]["securitySchemes"].values()} == {
        "bearer"
    }
    assert keyed["security"] == [{"key": []}]
    assert keyed["paths"]["/health"]["get"]["security"] == []
    assert keyed["paths"]["/flush_cache"]["post"]["security"] == [{"adminKey": []}]
    assert "security" not in keyed["paths"]["/v1/chat/completions"]["post"]


def test_every_answer_that_is_described_belongs_to_a_route() -> None:
    document = description(settings(ADMIN_API_KEY="a"))
    routes = {f"{method} {path}" for method, path, _ in operations(document)}
    described = {*answers._ANSWERS, *answers.FRAMES, *answers.MAY_BE_503}
    assert described <= routes


async def _asked(running: Any, method: str, path: str, operation: Json) -> Any:
    """The answer to a route's own example; None: it has parameters."""
    if "{" in path or path in ("/v1/files", "/metrics") or "/responses" in path:
        return None
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    example = body.get("example")
    if method == "POST" and example is None:
        return None
    return await running.client.request(method, path, json=example)


@pytest.mark.parametrize("embeds", [False, True])
async def test_real_answers_are_as_they_are_described(embeds: bool) -> None:
    engine = ScriptedEngine("a", "b", **({"embedding_size": 3, "dimensions": ()} if embeds else {}))
    checked = set()
    async with serve(engine) as running:
        document = (await running.client.get("/openapi.json")).json()
        for method, path, operation in operations(document):
            answer = await _asked(running, method, path, operation)
            if answer is None or answer.status_code == 400:  # another kind of model
                continue
            assert answer.status_code == 200, (path, answer.text)
            schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
            validator(document, schema).validate(answer.json())
            checked.add(path)
    wanted = {"/v1/embeddings"} if embeds else {"/v1/chat/completions", "/v1/messages", "/generate"}
    assert wanted | {"/", "/health", "/v1/models", "/server_info", "/v1/tokens"} <= checked


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/v1/chat/completions", {"stream_options": {"include_usage": True}, "logprobs": True}),
        ("/v1/completions", {}),
        ("/v1/responses", {}),
        ("/v1/messages", {}),
        ("/generate", {}),
    ],
)
async def test_real_frames_are_as_they_are_described(path: str, more: Json) -> None:
    async with serve(ScriptedEngine("a", "b")) as running:
        document = (await running.client.get("/openapi.json")).json()
        operation = document["paths"][path]["post"]
        example = operation["requestBody"]["content"]["application/json"]["example"]
        answer = await running.client.post(path, json={**example, "stream": True, **more})
        content = operation["responses"]["200"]["content"]["text/event-stream"]
        lines = answer.text.splitlines()
        frames = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        whole = await running.client.post(path, json=example)
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert len(frames) > 1
    for frame in frames:
        validator(document, content["schema"]).validate(frame)
    validator(document, schema).validate(whole.json())


@pytest.mark.parametrize("path", ["/ping", "/healthz", "/health", "/readyz", "/livez"])
@pytest.mark.parametrize("phase", [Phase.LOADING, Phase.READY, Phase.DRAINING, Phase.DEAD])
async def test_answers_of_probes_in_any_phase_are_as_they_are_described(
    path: str, phase: Phase
) -> None:
    loading = phase is Phase.LOADING
    async with serve(
        None if loading else ScriptedEngine("a"), ready=not loading, HEALTH_CHECK_PATH="/healthz"
    ) as running:
        if not loading:
            running.lifecycle.enter(phase)
        document = (await running.client.get("/openapi.json")).json()
        answer = await running.client.get(path)
    responses = document["paths"][path]["get"]["responses"]
    described = responses[str(answer.status_code)]
    if answer.content:
        schema = described["content"]["application/json"]["schema"]
        assert schema == {
            "$ref": "#/components/schemas/" + ("Health" if path == "/health" else "Probe")
        }
        validator(document, schema).validate(answer.json())
    else:
        assert "content" not in described
    assert ("204" in responses) == (path in ("/ping", "/healthz"))
    assert not {"4XX", "5XX"} & responses.keys()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/models/none"])
async def test_errors_are_as_they_are_described(path: str) -> None:
    async with serve(ScriptedEngine("a")) as running:
        document = (await running.client.get("/openapi.json")).json()
        described = path.replace("/none", "/{model}")
        method = next(iter(document["paths"][described]))
        answer = await running.client.request(method, path, json={"messages": 1})
    assert 400 <= answer.status_code < 500
    operation = document["paths"][described][method]
    schema = operation["responses"]["4XX"]["content"]["application/json"]["schema"]
    validator(document, schema).validate(answer.json())
