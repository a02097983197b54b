"""An error is answered in the words of its path's vendor."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.dialects.error_forms import ANTHROPIC, OPENAI, form_of
from app.errors import (
    AuthenticationFailed,
    BodyTimeout,
    BodyTooLarge,
    Draining,
    InternalError,
    MethodNotAllowed,
    NotReady,
    Overloaded,
    RequestAborted,
    RouteNotFound,
    ServeError,
)
from app.web.responses import rendered
from tests.support.scripted import ScriptedEngine
from tests.support.serving import serve


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/v1/complete"])
def test_anthropics_paths_have_its_form(path: str) -> None:
    assert form_of(path) is ANTHROPIC


@pytest.mark.parametrize("path", ["/", "/v1/chat/completions", "/generate", "/v1/messagesx"])
def test_every_other_path_has_openais(path: str) -> None:
    assert form_of(path) is OPENAI


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (AuthenticationFailed("m"), 401, "authentication_error"),
        (RouteNotFound("m"), 404, "not_found_error"),
        (MethodNotAllowed("m"), 405, "invalid_request_error"),
        (BodyTimeout("m"), 408, "invalid_request_error"),
        (BodyTooLarge("m"), 413, "request_too_large"),
        (InternalError("m"), 500, "api_error"),
        (RequestAborted("m"), 503, "api_error"),
        (NotReady("m"), 503, "overloaded_error"),
        (Draining("m"), 503, "overloaded_error"),
        (Overloaded("m"), 529, "overloaded_error"),
    ],
)
def test_anthropics_errors_have_its_status_type_and_id(
    error: ServeError, status: int, kind: str
) -> None:
    scope: dict[str, Any] = {"path": "/v1/messages", "state": {"request_id": "abc"}}
    answered, content, headers = rendered(error, scope)
    assert answered == status
    assert json.loads(content) == {
        "type": "error",
        "error": {"type": kind, "message": "m"},
        "request_id": "req_abc",
    }
    assert headers["request-id"] == "req_abc"
    assert ("retry-after" in headers) is (error.retry_after_s is not None)


async def test_a_missing_route_and_a_missing_key_are_answered_in_the_vendors_words() -> None:
    async with serve(ScriptedEngine("x"), API_KEY="secret") as running:
        refused = await running.client.post("/v1/messages", json={})
        running.client.headers["x-api-key"] = "secret"
        missing = await running.client.post("/v1/messages/nothing", json={})
        openai = await running.client.post("/v1/nothing", json={})
    assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authentication_error")
    assert refused.headers["x-should-retry"] == "false"
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")
    assert missing.json()["request_id"] == missing.headers["request-id"]
    assert missing.headers["request-id"] == "req_" + missing.headers["x-request-id"]
    assert openai.json()["error"]["code"] == "unknown_url"


async def test_a_client_of_anthropics_is_answered_in_its_words_where_no_path_says_whose() -> None:
    async with serve(ScriptedEngine("x")) as running:
        running.client.headers["anthropic-version"] = "2023-06-01"
        missing = await running.client.post("/v1/nothing", json={})
        models = await running.client.get("/v1/models")
        chat = await running.client.post("/v1/chat/completions", json={})
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")
    assert models.headers["request-id"] == "req_" + models.headers["x-request-id"]
    assert "request-id" not in chat.headers
    assert chat.json()["error"]["code"] == "missing_required_parameter"


async def test_a_websocket_is_refused_so_that_codex_goes_on_without_one() -> None:
    async with serve(ScriptedEngine("x")) as running:
        wanted = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
        assert (await running.client.get("/v1/responses", headers=wanted)).status_code == 404
        assert (await running.client.get("/v1/responses")).status_code == 405
