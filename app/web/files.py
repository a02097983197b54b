"""Uploads of files, and what files hold: the parts of OpenAI's Files API that are not JSON.

    admit ── begin ── pieces ── Form ── Upload.write ── keep ── 200
      │ 503    │ 400, 503         │ 400     │ 413, 400    └ from here on it is kept

dialects/openai/files.py has the rest.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from urllib.parse import quote

from fastapi import FastAPI, Request
from starlette.responses import Response, StreamingResponse

from app.dialects.openai.files import (
    LASTS_S,
    PURPOSES,
    NewFile,
    existing,
    file_json,
    kept_by,
    known_purpose,
)
from app.errors import BodyTooLarge
from app.files.files import Upload
from app.types import Json
from app.web.answers import STORE_FAILS, error_answers
from app.web.bodies import body_pieces, declares_over
from app.web.multipart import OVERHEAD_BYTES, Form
from app.web.resources import CARRIED_BYTES, Carried, names_of
from app.web.responses import json_response
from app.web.state import serving_of

_TYPES = {
    "txt": "text/plain; charset=utf-8",
    "md": "text/markdown; charset=utf-8",
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "jsonl": "application/jsonl",
    "pdf": "application/pdf",
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
}
"""By the end of a name. No browser runs any of these; whatever else it is, it is bytes."""


def add_to(app: FastAPI) -> None:
    app.add_api_route(
        "/v1/files",
        upload,
        methods=["POST"],
        summary="Upload a file",
        response_class=Response,
        openapi_extra=_UPLOAD,
    )
    app.add_api_route(
        "/v1/files/{file_id}/content",
        content,
        methods=["GET"],
        summary="What a file holds",
        response_class=Response,
        openapi_extra=_CONTENT,
    )


async def upload(request: Request) -> Response:
    serving = serving_of(request)
    files = kept_by(serving)
    state = request.scope["state"]
    async with serving.gate.admit(*names_of(request.scope), passes_through=True):
        if declares_over(request.headers, files.most_file_bytes + OVERHEAD_BYTES):
            raise BodyTooLarge(f"The file is over {files.most_file_bytes} bytes (FILE_MAX_BYTES).")
        form = Form(request.headers.get("content-type", ""), file_field="file")
        async with files.upload(state["owner"]) as arriving:
            await _receive(request, form, arriving)
            new = NewFile.of(form.fields, form.filename or "")
            state["log_fields"] |= {"purpose": new.purpose, "bytes": arriving.size}
            file = await arriving.keep(
                filename=new.filename, purpose=new.purpose, lasts_s=new.lasts_s
            )
    return json_response(file_json(file))


async def _receive(request: Request, form: Form, arriving: Upload) -> None:
    """Raises ServeError."""
    settings = serving_of(request).settings
    timeout_s = settings.file_upload_timeout_s
    pieces = body_pieces(request.receive, settings, timeout_s=timeout_s)
    async with aclosing(pieces):
        async for piece in pieces:
            data = form.feed(piece)
            if "purpose" in form.fields:
                known_purpose(form.fields["purpose"])  # before all of the file is there
            for some in data:
                await arriving.write(some)
    form.close()


async def content(request: Request) -> Response:
    serving = serving_of(request)
    files = kept_by(serving)
    file = await existing(files, request.scope["state"]["owner"], request.path_params["file_id"])
    ending = file.filename.rpartition(".")[2].lower()
    headers = {
        "content-length": str(file.size),
        "content-type": _TYPES.get(ending, "application/octet-stream"),
        "content-disposition": _disposition(file.filename),
        "x-content-type-options": "nosniff",
        "content-security-policy": "sandbox; default-src 'none'",
        "cache-control": "private, no-store",
    }
    if request.scope["state"]["head_only"]:
        return Response(headers=headers)
    pieces = files.read(file)
    first = await anext(pieces, b"")  # what cannot be read is an error, and no broken answer
    response = StreamingResponse(_all_of(first, pieces), headers=headers)
    return Carried(response, CARRIED_BYTES, serving.gate, ends=True)


async def _all_of(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(rest):
        yield first
        async for piece in rest:
            yield piece


def _disposition(filename: str) -> str:
    """RFC 6266: the name for old clients, and for those that know UTF-8."""
    plain = "".join(
        char if char.isascii() and char.isprintable() and char not in '"\\%' else "_"
        for char in filename
    )
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"


_UPLOAD: Json = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {
                            "type": "string", "format": "binary",
                            "description": "The file, at most `FILE_MAX_BYTES`, with its name.",
                        },
                        "purpose": {
                            "type": "string", "enum": list(PURPOSES),
                            "description": "What the file is for elsewhere. Nothing follows from "
                            "it here.",
                        },
                        "expires_after[anchor]": {
                            "type": "string", "enum": ["created_at"],
                            "description": "From when `expires_after[seconds]` counts.",
                        },
                        "expires_after[seconds]": {
                            "type": "integer", "minimum": LASTS_S[0], "maximum": LASTS_S[1],
                            "description": "Seconds until the file is deleted. If the operator "
                            "has set `FILE_TTL`, that is the most, and the default.",
                        },
                    },
                }
            }
        },
    },
    "responses": {"200": {"description": "The file."}, **error_answers(STORE_FAILS)},
}  # fmt: skip
_CONTENT: Json = {
    "parameters": [
        {
            "name": "file_id",
            "in": "path",
            "required": True,
            "description": "Id of the file.",
            "schema": {"type": "string"},
        }
    ],
    "responses": {
        "200": {
            "description": "Its bytes.",
            "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
        },
        **error_answers(STORE_FAILS),
    },
}
