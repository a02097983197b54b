"""The description of the API, `/openapi.json`: FastAPI's document, and what FastAPI cannot know.

Bodies are read and answers are written without FastAPI, so their schemas are added here.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.responses import Response

from app import __version__
from app.dialects.body import Body
from app.dialects.contract import Dialect
from app.dialects.routes import DIALECTS, RESOURCES
from app.dialects.schemas import schemas_of
from app.dialects.sglang.admin import AbortBody, LoadAdapterBody, ProfileBody, UnloadAdapterBody
from app.settings.bounds import Bounds
from app.settings.catalogue import Settings
from app.types import Json
from app.web import answers
from app.web.answers import error_answers
from app.web.middleware import Authentication
from app.web.schema_parts import ref

TITLE = "SGLang Hathora Server"


def describe(app: FastAPI, dialect: Dialect[Any]) -> None:
    """Add a route that describes a dialect and refuses other methods; `Shortcut` answers POST."""

    async def generate() -> Response:
        raise AssertionError("Shortcut answers this")

    app.add_api_route(
        dialect.path,
        generate,
        methods=["POST"],
        summary=dialect.summary,
        name=dialect.body.__name__,
        response_class=Response,
        openapi_extra=_request_body(dialect),
    )


def _request_body(dialect: Dialect[Any]) -> Json:
    content = {
        "application/json": {"schema": ref(dialect.body.__name__), "example": dialect.example}
    }
    streams = "stream" in dialect.body.model_fields
    answer = "The answer; server-sent events if `stream` is true." if streams else "The answer."
    return {
        "requestBody": {"required": True, "content": content},
        "responses": {
            "200": {"description": answer},
            **error_answers("The server is at fault, or busy.", dialect.path),
        },
    }


_KEYWORDS = {"integer": "maximum", "array": "maxItems", "object": "maxProperties"}
"""JSON type -> the keyword of JSON Schema that bounds it."""


def _add_bounds(schema: Json, bounds: Bounds) -> None:
    """Add the operator's bounds, which the bodies' classes do not know."""
    for field, most in bounds.by_request_field().items():
        described = schema.get("properties", {}).get(field, {})
        kinds = [described, *described.get("anyOf", ())]
        kinds += [inner for kind in kinds[1:] for inner in kind.get("anyOf", ())]
        for kind in kinds:
            if keyword := _KEYWORDS.get(kind.get("type")):
                kind[keyword] = most


def document(app: FastAPI, settings: Settings) -> Json:
    """The whole document."""
    described = get_openapi(
        title=TITLE,
        version=__version__,
        description=_DESCRIPTION,
        routes=app.routes,
        tags=[{"name": name, "description": text} for name, text in _TAGS.items()],
    )
    schemas = described.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas |= answers.SCHEMAS
    bounds = Bounds.of(settings)
    bodies = _bodies(settings)
    schemas |= schemas_of(bodies)
    for body in bodies:
        _add_bounds(schemas[body.__name__], bounds)
    for path, item in described["paths"].items():
        for method, operation in item.items():
            route = f"{method.upper()} {path}"
            if path == settings.health_path and answers.of(route) is None:
                route = "GET /ping"
            _complete(operation, route, path)
    _add_security(described, settings)
    return described


def _bodies(settings: Settings) -> list[type[Body]]:
    bodies = [dialect.body for dialect in DIALECTS]
    bodies += [resource.body for resource in RESOURCES if resource.body is not None]
    if settings.admin_api_key:
        bodies += _OPERATORS_BODIES.values()
    return bodies


def _complete(operation: Json, route: str, path: str) -> None:
    """Add what the routes share: a tag, and the schemas of answers; and the operator's bodies."""
    operation["tags"] = [_tag(path)]
    if (body := _OPERATORS_BODIES.get(route)) is not None:
        content = {"application/json": {"schema": ref(body.__name__)}}
        operation["requestBody"] = {"content": content}
    responses = operation["responses"]
    # FastAPI's, for each route with a parameter; this server's errors have another form.
    responses.pop("422", None)
    success = responses.setdefault("200", {"description": "The answer."})
    if path == "/metrics":
        success["content"] = {"text/plain": {"schema": {"type": "string"}}}
    elif (name := answers.of(route)) is not None:
        success.setdefault("content", {})["application/json"] = {"schema": ref(name)}
        if (frame := answers.FRAMES.get(route)) is not None:
            success["content"]["text/event-stream"] = {"schema": ref(frame)}
    if route in answers.MAY_BE_503:
        responses["503"] = {
            "description": "Not ready, or not any more.",
            "content": {"application/json": {"schema": ref(name)}} if name else {},
        }
    elif path != "/metrics" and not {"4XX", "503"} & responses.keys() and path not in _NEVER_FAIL:
        responses |= error_answers("The server is at fault, or not ready.")


def _add_security(described: Json, settings: Settings) -> None:
    """The keys, where some are wanted: Swagger then shows "Authorize", and generated clients send
    them."""
    schemes: Json = {}
    if settings.api_key:
        schemes["key"] = {
            "type": "http",
            "scheme": "bearer",
            "description": "A key of API_KEY or ADMIN_API_KEY; also taken as `x-api-key`.",
        }
        described["security"] = [{"key": []}]
    if settings.admin_api_key:
        schemes["adminKey"] = {
            "type": "http",
            "scheme": "bearer",
            "description": "A key of ADMIN_API_KEY.",
        }
    if schemes:
        described["components"]["securitySchemes"] = schemes
    for path, item in described["paths"].items():
        for operation in item.values():
            if operation["tags"] == ["Operator"]:
                operation["security"] = [{"adminKey": []}]
            elif path in Authentication.OPEN | {settings.health_path} and settings.api_key:
                operation["security"] = []


def _tag(path: str) -> str:
    for prefix, tag in _TAGS_OF_PATHS.items():
        if path == prefix or path.startswith(f"{prefix}/"):
            return tag
    return "Server"


_DESCRIPTION = """\
OpenAI's, Anthropic's and SGLang's APIs over one model. Errors are in the form of the path's vendor.
A field that this server cannot honour is refused by name, never ignored.
"""
_TAGS = {
    "OpenAI": "Chat, completions, embeddings, and the models' names.",
    "Responses": "OpenAI's Responses API: what Codex and agents use.",
    "Files": "OpenAI's files, with FILE_STORAGE_PATH.",
    "Anthropic": "The Messages API: what Claude Code uses.",
    "SGLang": "SGLang's own API, tokens, and what its routers ask.",
    "Server": "Health, readiness, metrics.",
    "Operator": "With ADMIN_API_KEY only.",
}
_TAGS_OF_PATHS = {
    "/v1/load_lora_adapter": "Operator",
    "/v1/unload_lora_adapter": "Operator",
    "/flush_cache": "Operator",
    "/abort_request": "Operator",
    "/start_profile": "Operator",
    "/stop_profile": "Operator",
    "/sleep": "Operator",
    "/wake_up": "Operator",
    "/is_sleeping": "Operator",
    "/v1/responses": "Responses",
    "/v1/conversations": "Responses",
    "/v1/files": "Files",
    "/v1/messages": "Anthropic",
    "/v1/tokens": "SGLang",
    "/v1/tokenize": "SGLang",
    "/v1/detokenize": "SGLang",
    "/v1/loads": "SGLang",
    "/v1": "OpenAI",
    "/tokenize": "SGLang",
    "/detokenize": "SGLang",
    "/generate": "SGLang",
    "/model_info": "SGLang",
    "/server_info": "SGLang",
    "/get_load": "SGLang",
    "/health_generate": "Server",
}
"""The first that a path begins with."""
_NEVER_FAIL = frozenset({"/"})
_OPERATORS_BODIES: dict[str, type[Body]] = {
    "POST /abort_request": AbortBody,
    "POST /start_profile": ProfileBody,
    "POST /v1/load_lora_adapter": LoadAdapterBody,
    "POST /v1/unload_lora_adapter": UnloadAdapterBody,
}
"""web/admin.py reads them."""
