"""Checks one streamed answer, byte by byte as it arrived, against the engine's text."""

from __future__ import annotations

import re
from typing import NamedTuple

import orjson

OK = b"HTTP/1.1 200 "
END = b"\r\n0\r\n\r\n"
"""The end of a chunked body. Frames are JSON, so it cannot occur inside one."""

_DONE = b"data: [DONE]\n\n"
_COMMENT = re.compile(rb"^:.*\n{1,2}", re.MULTILINE)
_TEXT = re.compile(rb'"(?:content|text)":"((?:[^"\\]|\\.)*)"')


class Broken(Exception):
    """An answer is wrong; `str()` says how."""


class Size(NamedTuple):
    """How much one right answer held."""

    frames: int
    """Without `[DONE]`."""
    size_bytes: int


def check(raw: bytes, text: str, *, fully: bool) -> Size:
    """Check a complete answer: status, chunks, frames, whole text, one `[DONE]`, nothing after it.

    `fully` also parses each frame. Raises Broken.
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
    return Size(frames, len(raw))


def check_beginning(raw: bytes, text: str) -> None:
    """Check the beginning of an answer whose client has disconnected. Raises Broken."""
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


def _compare(body: bytes, expected: bytes, *, begun: bool = False) -> None:
    actual = b"".join(_TEXT.findall(body))
    if actual == expected or (begun and expected.startswith(actual)):
        return
    difference = next(
        (no for no, (a, b) in enumerate(zip(actual, expected, strict=False)) if a != b), None
    )
    at = min(len(actual), len(expected)) if difference is None else difference
    around = slice(max(0, at - 20), at + 20)
    raise Broken(f"at {at} of {len(expected)} it says {actual[around]!r}, not {expected[around]!r}")


def _check_frames(body: bytes, text: str) -> None:
    texts, ids, reasons = [], set(), []
    for frame in body.removesuffix(_DONE).split(b"\n\n")[:-1]:
        content = orjson.loads(frame.removeprefix(b"data: "))
        ids.add(content["id"])
        for choice in content["choices"]:
            piece = choice["delta"].get("content") if "delta" in choice else choice["text"]
            texts.append(piece or "")
            if choice["finish_reason"] is not None:
                reasons.append(choice["finish_reason"])
    if len(ids) != 1 or reasons != ["length"] or "".join(texts) != text:
        raise Broken(f"its frames have ids {ids}, finish reasons {reasons}, or another text")
