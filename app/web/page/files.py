"""The files of the page and of `/docs`, read once, with the headers that fit them.

They are the same for everybody and hold nothing of the server, so they need no key. Those that a
document names lie below a folder that is named by their content: a browser keeps them for ever, and
gets new ones with a new release.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from app.errors import RouteNotFound
from app.web.page.paths import OPEN_PREFIX

_FOLDER = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_TO_CHAT = '<nav aria-label="Page"><a href="./">← Chat</a></nav>\n'.encode()
DESCRIPTION = "docs/index.html"
ALONE = "docs/alone.html"
"""The description where there is no page."""
_FOR_EVER = "public, max-age=31536000, immutable"


class File(msgspec.Struct, frozen=True):
    content: bytes
    type: str
    etag: str


def document(name: str, request: Request, *, vary: str | None = None) -> Response:
    """An HTML file: always asked for anew, answered with 304 if it has not changed."""
    headers = {"cache-control": "no-cache"} | ({"vary": vary} if vary else {})
    return _answer(_read()[name], request, headers)


def asset(folder: str, name: str, request: Request) -> Response:
    """A file that a document names. Of a folder of another release it is the present one, which
    must not be kept: behind a load balancer servers differ for a while. Raises RouteNotFound."""
    file = _read().get(name)
    if file is None or name.endswith(".html"):
        raise RouteNotFound("There is no such file of the page here.")
    cache_control = _FOR_EVER if folder == _digest() else "no-cache"
    return _answer(file, request, {"cache-control": cache_control})


def icon(request: Request) -> Response:
    return _answer(_read()["icon.svg"], request, {"cache-control": "public, max-age=86400"})


def _answer(file: File, request: Request, headers: dict[str, str]) -> Response:
    headers = {**_HEADERS, **headers, "etag": file.etag}
    known = request.headers.get("if-none-match", "")
    if file.etag in [each.strip().removeprefix("W/") for each in known.split(",")]:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers | {"content-type": file.type})


@cache
def _digest() -> str:
    """Names the files' content."""
    digest = hashlib.sha256()
    for path in _paths():
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def _read() -> dict[str, File]:
    """By the path below the folder. Documents have the address of their files put in, and the one
    of `/docs` is there with a link to the page and, as ALONE, without."""
    files = {}
    for path in _paths():
        content = path.read_bytes()
        if path.suffix == ".html":
            content = content.replace(b"{files}", f"{OPEN_PREFIX[1:]}{_digest()}".encode())
        name = path.relative_to(_FOLDER).as_posix()
        files[name] = _file(content.replace(b"{chat}", _TO_CHAT), path.suffix)
        if name == DESCRIPTION:
            files[ALONE] = _file(content.replace(b"{chat}", b""), path.suffix)
    return files


def _file(content: bytes, suffix: str) -> File:
    return File(content, _TYPES[suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def _paths() -> list[Path]:
    return sorted(path for path in _FOLDER.rglob("*.*") if path.suffix in _TYPES)
