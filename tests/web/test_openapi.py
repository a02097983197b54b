"""The description of the API: complete, and true of the answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from app.dialects.body import read
from app.dialects.routes import DIALECTS, RESOURCES
from app.dialects.schemas import schemas_of
from app.lifecycle import Phase
from app.settings.bounds import Bounds
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


EVERYTHING = {"API_KEY": "a", "ADMIN_API_KEY": "b"}
MOST_CHARS = 200


def fields(node: Any, place: str = "") -> Iterator[tuple[str, Json]]:
    """Each property of each schema, with its place."""
    if isinstance(node, list):
        for no, each in enumerate(node):
            yield from fields(each, f"{place}/{no}")
    if not isinstance(node, dict):
        return
    for name, field in node.get("properties", {}).items():
        yield f"{place}/{name}", field
    for name, each in node.items():
        yield from fields(each, f"{place}/{name}")


def test_every_field_and_parameter_has_a_description_of_one_or_two_sentences() -> None:
    document = description(settings(**EVERYTHING))
    schemas = [*fields(document["components"]["schemas"])]
    bodies = [
        field
        for method, path, operation in operations(document)
        for content in operation.get("requestBody", {}).get("content", {}).values()
        for field in fields(content["schema"], f"{method} {path}")
    ]
    parameters = [
        (f"{method} {path} {parameter['name']}", parameter)
        for method, path, operation in operations(document)
        for parameter in operation.get("parameters", ())
    ]
    assert len(schemas) > 500
    assert bodies, "the form of /v1/files has its own"
    assert parameters
    for place, field in (*schemas, *bodies, *parameters):
        text = field.get("description", "")
        assert text.endswith("."), f"{place}: {text!r} is no sentence"
        assert len(text) < MOST_CHARS, f"{place}: {len(text)} characters"
        assert "\n" not in text, place


TURNS = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (
            "/v1/chat/completions",
            {
                "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
                "tools": [{"type": "function", "function": {"name": "f"}}],
                "thinking": {"type": "enabled"},
            },
        ),
        (
            "/v1/responses",
            {
                "model": "default",
                "input": [{"id": "msg_1", **TURNS[0]}],
                "tools": [{"type": "function", "name": "f"}, {"type": "custom", "name": "g"}],
                "reasoning": {"summary": "auto"},
            },
        ),
        (
            "/v1/messages",
            {
                "model": "default",
                "max_tokens": 8,
                "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
                "tools": [{"name": "f", "input_schema": {"type": "object"}}],
                "thinking": {"type": "adaptive"},
            },
        ),
        ("/v1/messages/count_tokens", {"model": "default", "messages": TURNS}),
        ("/v1/tokens", {"input": "hi"}),
    ],
)
def test_classes_of_one_name_in_several_dialects_are_described_each(path: str, body: Json) -> None:
    environment = settings()
    document = description(environment)
    dialect = {each.path: each for each in DIALECTS}[path]
    read(dialect.body, json.dumps(body).encode(), Bounds.of(environment), path)
    content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    described = validator(document, content["schema"])
    described.validate(body)
    assert not described.is_valid({**body, "tools": [{}]} if "tools" in body else {"x": "hi"})


def test_a_schema_has_one_name_and_a_name_one_schema() -> None:
    bodies = {dialect.body for dialect in DIALECTS}
    bodies |= {resource.body for resource in RESOURCES if resource.body is not None}
    made = schemas_of(bodies)
    assert len({body.__name__ for body in bodies}) == len(bodies)
    assert {body.__name__ for body in bodies} <= made.keys()
    assert not made.keys() & answers.SCHEMAS.keys()
    # openapi-python-client makes no class of a second schema with a title.
    assert all(schema["title"] == name for name, schema in made.items())


def enums(node: Any) -> Iterator[list[Any]]:
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    if isinstance(node, dict) and isinstance(node.get("enum"), list):
        yield node["enum"]
    for each in children:
        yield from enums(each)


def test_values_of_an_enum_are_of_one_type() -> None:
    """openapi-python-client makes no class of a schema that has another."""
    document = description(settings(**EVERYTHING))
    assert all(len({type(value) for value in enum}) == 1 for enum in enums(document))


def test_the_operators_bodies_are_described_with_their_key_alone() -> None:
    document = description(settings(ADMIN_API_KEY="b"))
    body = document["paths"]["/abort_request"]["post"]["requestBody"]
    schema = body["content"]["application/json"]["schema"]
    assert validator(document, schema).is_valid({"rid": "chatcmpl-1"})
    assert not validator(document, schema).is_valid({"rid": 1})
    assert "AbortBody" not in description(settings())["components"]["schemas"]


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
