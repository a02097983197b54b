"""Turns the reply of a dialect into the yields of a job.

Whole(JSON)     ─> the JSON object, once
Stream(frames)  ─> pieces ─> batches ─> OpenAI: server-sent events as text (RAW_OPENAI_OUTPUT),
                                                or lists of their JSON
                                        worker-vllm: its batches of tokens
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeAlias, assert_never

import orjson

from app.dialects.contract import Reply, Stream, Whole
from app.dialects.vllm import batch_output
from app.errors import ServeError
from app.runpod.backend import OutputForm
from app.runpod.batches import MAX_YIELD_BYTES, Batches, Growth
from app.types import Json

JsonValue: TypeAlias = Any
"""Any value that JSON can hold."""
Deliver: TypeAlias = Callable[[JsonValue], None]

_EVENT_END = b"\n\n"
_DONE = "[DONE]"
_CUT_CHARS = MAX_YIELD_BYTES // 6
"""This many characters fit into a yield, even if JSON escapes each as \\uXXXX."""


class Writer:
    """Delivers the answer of one job, in its format."""

    def __init__(self, form: OutputForm, growth: Growth, deliver: Deliver, *, raw: bool) -> None:
        """`raw`: yield OpenAI's streams as text."""
        self._form, self._raw = form, raw
        self._deliver = deliver
        self._batches: Batches[Any] = Batches(growth, lambda batch: deliver(self._join(batch)))
        self._fail: Callable[[ServeError], bytes] | None = None
        self._began = False

    @property
    def streaming(self) -> bool:
        return self._began

    async def write(self, reply: Reply) -> None:
        match reply:
            case Whole(body, more):
                self._deliver(orjson.loads(b"".join((body, *more))))
            case Stream(frames, fail):
                self._fail = fail
                async with aclosing(frames):
                    async for frame in frames:
                        self._began = True
                        self._add(frame)
                self._batches.flush()
            case _:
                assert_never(reply)

    def fail(self, error: ServeError) -> None:
        """Deliver the rest of a stream that has begun, and its error, before the job fails."""
        if self._began and self._fail is not None:
            self._add(self._fail(error))
        self._batches.flush()

    def abandon(self) -> None:
        """Do not deliver the rest."""
        self._batches.cancel_timer()

    def _add(self, frame: bytes) -> None:
        """Add a frame, which holds one piece or several."""
        if self._form is OutputForm.VLLM:
            for line in frame.splitlines():
                self._batches.add(orjson.loads(line), len(line))
            return
        for event in _events(frame):
            if not self._raw:
                if (data := _data(event)) is not None:
                    self._batches.add(data, len(event))
                continue
            text = event.decode()
            for start in range(0, len(text), _CUT_CHARS):
                part = text[start : start + _CUT_CHARS]
                self._batches.add(part, len(orjson.dumps(part)))

    def _join(self, batch: Sequence[Any]) -> JsonValue:
        if self._form is OutputForm.VLLM:
            return batch_output.joined(batch)
        return "".join(batch) if self._raw else list(batch)


def _events(frame: bytes) -> list[bytes]:
    return [event + _EVENT_END for event in frame.split(_EVENT_END) if event]


def _data(event: bytes) -> Json | None:
    """The JSON of a server-sent event; None for `[DONE]` and for comments."""
    lines = [line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")]
    data = b"\n".join(lines)
    if not data or data == _DONE.encode():
        return None
    content: Json = orjson.loads(data)
    return content
