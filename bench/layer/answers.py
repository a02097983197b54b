"""One streamed answer, byte by byte as it came, held against what the engine said."""

from __future__ import annotations

import re
from typing import NamedTuple

import orjson

OK = b"HTTP/1.1 200 "
END = b"\r\n0\r\n\r\n"
"""Of a chunked body. Frames are JSON, so this never stands inside one."""

_DONE = b"data: [DONE]\n\n"
_COMMENT = re.compile(rb"^:.*\n\n", re.MULTILINE)
_TEXT = re.compile(rb'"(?:content|text)":"((?:[^"\\]|\\.)*)"')


class Broken(Exception):
    """An answer is not what it must be; `str()` says how."""


class Seen(NamedTuple):
    """What one answer held, over and above being right."""

    frames: int
    """Without `[DONE]`."""
    size_bytes: int


def check(raw: bytes, text: str, *, fully: bool) -> Seen:
    """A complete answer: status, chunks, frames, the whole text, one `[DONE]`, nothing after it.

    `fully` parses each frame, too. Raises Broken.
    """
    body = _body(raw)
    frames = body.count(b"\n\n") - 1
    if not body.startswith(b"data: ") or body.count(b"\n\ndata: ") != frames:
        raise Broken(f"not a stream of frames: {body[:200]!r}")
    if not body.endswith(b"\n\n" + _DONE) or body.count(b"[DONE]") != 1:
        raise Broken(f"its end is {body[-200:]!r}")
    _compare(body, text.encode())
    if fully:
        _check_frames(body, text)
    return Seen(frames, len(raw))


def check_beginning(raw: bytes, text: str) -> None:
    """An answer whose client has left: a piece of the text, from its beginning. Raises Broken."""
    head, _, rest = raw.partition(b"\r\n\r\n")
    _check_head(head)
    _compare(rest, text.encode(), begun=True)


def _body(raw: bytes) -> bytes:
    head, _, rest = raw.partition(b"\r\n\r\n")
    _check_head(head)
    pieces: list[bytes] = []
    at = 0
    while True:
        end = rest.find(b"\r\n", at)
        size = int(rest[at:end], 16)
        at = end + 2 + size
        if rest[at : at + 2] != b"\r\n":
            raise Broken(f"a chunk of {size} bytes is followed by {rest[at : at + 20]!r}")
        if size == 0:
            break
        pieces.append(rest[end + 2 : at])
        at += 2
    if at + 2 != len(rest):
        raise Broken(f"after its end came {rest[at + 2 :][:200]!r}")
    body = b"".join(pieces)
    return _COMMENT.sub(b"", body) if b"\n\n:" in body or body.startswith(b":") else body


def _check_head(head: bytes) -> None:
    if not head.startswith(OK):
        raise Broken(f"its head is {head[:200]!r}")
    if b"text/event-stream" not in head or b"chunked" not in head:
        raise Broken(f"not a stream: {head!r}")


def _compare(body: bytes, wanted: bytes, *, begun: bool = False) -> None:
    said = b"".join(_TEXT.findall(body))
    if said == wanted or (begun and wanted.startswith(said)):
        return
    same = next((no for no, (a, b) in enumerate(zip(said, wanted, strict=False)) if a != b), None)
    at = min(len(said), len(wanted)) if same is None else same
    around = slice(max(0, at - 20), at + 20)
    raise Broken(f"at {at} of {len(wanted)} it says {said[around]!r}, not {wanted[around]!r}")


def _check_frames(body: bytes, text: str) -> None:
    said, ids, reasons = [], set(), []
    for frame in body.removesuffix(_DONE).split(b"\n\n")[:-1]:
        content = orjson.loads(frame.removeprefix(b"data: "))
        ids.add(content["id"])
        for choice in content["choices"]:
            piece = choice["delta"].get("content") if "delta" in choice else choice["text"]
            said.append(piece or "")
            if choice["finish_reason"] is not None:
                reasons.append(choice["finish_reason"])
    if len(ids) != 1 or reasons != ["length"] or "".join(said) != text:
        raise Broken(f"its frames have ids {ids}, finish reasons {reasons}, or another text")
