"""Files in the requests of all dialects: text becomes part of the prompt, pictures are pictures.

    parts that name files ─ load: whose, how large, then read ─ Attached ─ lower
    parts that hold them ──────────────────────────────────────────────────^

What a model here can read of a file is its text. Its size counts as if it were in the request.
"""

from __future__ import annotations

import asyncio
import re
from binascii import Error
from collections.abc import Mapping, Sequence

import msgspec
import pybase64

from app.dialects.contract import Call
from app.dialects.openai.files import checked_name, existing
from app.errors import InvalidRequest, UnsupportedParameter, too_many
from app.store.records import StoredFile

_MOST_FILES = 64
_LONG_BYTES = 200_000
"""To decode it takes a millisecond and more."""
_DATA = re.compile(r"data:(?P<type>[^,;]{0,100})(?P<more>[^,]{0,200}),")
_BLANKS = str.maketrans("", "", " \t\r\n")
_NO_TEXT = ("image/", "audio/", "video/", "font/", "application/pdf", "application/zip")
READABLE = "text in UTF-8 (plain text, Markdown, CSV, JSON, source code and the like)"


class Named(msgspec.Struct, frozen=True):
    """A file that a request names."""

    id: str
    param: str
    """The field that names it."""
    is_picture: bool = False


class Attached(msgspec.Struct, frozen=True):
    """Files that were named, by their ids."""

    texts: dict[str, str] = {}
    """As the model reads them."""
    pictures: dict[str, str] = {}
    """As `data:` URLs."""


NONE = Attached()


async def load(named: Sequence[Named], call: Call) -> Attached:
    """Raises InvalidRequest, ItemNotFound, StoreUnavailable, Overloaded."""
    once = {(each.id, each.is_picture): each for each in reversed(named)}
    if len(once) > _MOST_FILES:
        raise too_many(next(iter(once.values())).param, _MOST_FILES)
    found = {key: await _found(each, call) for key, each in once.items()}
    call.ticket.take_on(_total(named, found, call))
    attached = Attached({}, {})
    for (id, is_picture), file in found.items():
        assert call.files is not None
        content, param = await call.files.content(file), once[id, is_picture].param
        if is_picture:
            attached.pictures[id] = await asyncio.to_thread(_picture_url, content)
        elif len(content) < _LONG_BYTES:
            attached.texts[id] = _shown(file.filename, as_text(content, param))
        else:
            text = await asyncio.to_thread(as_text, content, param)
            attached.texts[id] = _shown(file.filename, text)
    return attached


async def _found(named: Named, call: Call) -> StoredFile:
    if call.files is None:
        raise UnsupportedParameter(
            f"'{named.param}' needs a server that keeps files; this one does not "
            "(FILE_STORAGE_PATH).",
            param=named.param,
        )
    if named.is_picture and not call.model.info.takes_pictures:
        raise UnsupportedParameter(
            "This model takes text only: pictures are not supported.", param=named.param
        )
    return await existing(call.files, call.owner, named.id, param=named.param)


def _total(named: Sequence[Named], found: Mapping[tuple[str, bool], StoredFile], call: Call) -> int:
    """Bytes of all, each as often as it is named: so often it is in the prompt. Raises
    InvalidRequest."""
    total, most = 0, call.most_body_bytes
    for each in named:
        size = found[each.id, each.is_picture].size
        total += size
        if each.is_picture and size > call.bounds.media_max_bytes:
            most = call.bounds.media_max_bytes
            bound = f"the picture has more than {most} bytes (MEDIA_MAX_BYTES)"
        elif total > most:
            bound = f"the files of a request may have {most} bytes together (MAX_BODY_BYTES)"
        else:
            continue
        raise InvalidRequest(
            f"Invalid value for '{each.param}': {bound}.", param=each.param, code="file_too_large"
        )
    return total


def text(
    *,
    file_id: str | None,
    file_data: str | None,
    filename: str | None,
    param: str,
    attached: Attached,
) -> str:
    """Of a part that names or holds a file, which stands at `param`. Raises InvalidRequest."""
    if (file_id is None) == (file_data is None):
        raise InvalidRequest(
            f"Invalid value for '{param}': must have either 'file_id' or 'file_data'.", param=param
        )
    if file_id is not None:
        return attached.texts[file_id]
    assert file_data is not None
    name = checked_name(filename, param=f"{param}.filename") if filename else None
    return _shown(name, _text_of_data(file_data, f"{param}.file_data"))


def _text_of_data(data: str, param: str) -> str:
    """`data`: a `data:` URL, or base64 alone."""
    kind, start = "", 0
    if data.startswith("data:"):
        header = _DATA.match(data)
        if header is None or not header["more"].lower().endswith(";base64"):
            raise InvalidRequest(
                f"Invalid value for '{param}': must be base64: 'data:text/plain;base64,...'.",
                param=param,
                code="invalid_base64",
            )
        kind, start = header["type"].lower(), header.end()
    try:
        content = pybase64.b64decode(data[start:].translate(_BLANKS), validate=True)
    except (Error, ValueError):
        raise InvalidRequest(
            f"Invalid value for '{param}': the file is no base64.",
            param=param,
            code="invalid_base64",
        ) from None
    return as_text(content, param, kind=kind)


def as_text(content: bytes, param: str, *, kind: str = "") -> str:
    """What a file holds. `kind`: its media type, as the client says. Raises InvalidRequest."""
    if (found := plain_text(content, kind)) is None:
        what = "a PDF" if content.startswith(b"%PDF-") else "this file"
        raise InvalidRequest(
            f"Invalid value for '{param}': {what} cannot be read here, only {READABLE}. Please "
            "send its text.",
            param=param,
            code="unsupported_file",
        )
    return found


def plain_text(content: bytes, kind: str = "") -> str | None:
    """None: it is no text."""
    if kind.startswith(_NO_TEXT) or content.startswith(b"%PDF-") or b"\0" in content:
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None


def _picture_url(content: bytes) -> str:
    """The decoder looks at the file, not at its type."""
    return "data:image/png;base64," + pybase64.b64encode(content).decode()


def _shown(filename: str | None, content: str) -> str:
    """As the model reads it."""
    named = f' name="{filename}"'.replace("\\", "") if filename else ""
    return f"<file{named}>\n{content}\n</file>"
