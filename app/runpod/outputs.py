"""A reply of a dialect -> what the worker yields for it.

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
from app.dialects.vllm import batch_output as vllm
from app.errors import ServeError
from app.runpod.backend import OutputForm
from app.runpod.batches import MAX_YIELD_BYTES, Batches, Growth
from app.types import Json

Output: TypeAlias = Any
"""JSON of any kind."""
Deliver: TypeAlias = Callable[[Output], None]

_EVENT_END = b"\n\n"
_DONE = "[DONE]"
_CUT_CHARS = MAX_YIELD_BYTES // 6
"""So many characters fit into a yield, however JSON may have to write them."""


class Writer:
    """Hands one job's answer on, in its form."""

    def __init__(self, form: OutputForm, growth: Growth, deliver: Deliver, *, raw: bool) -> None:
        """`raw`: OpenAI's streams go out as text."""
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
            case Whole(body):
                self._deliver(orjson.loads(body))
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
        """What a stream that has begun still says before the job fails."""
        if self._began and self._fail is not None:
            self._add(self._fail(error))
        self._batches.flush()

    def abandon(self) -> None:
        """Nobody wants the rest."""
        self._batches.forget_timer()

    def _add(self, frame: bytes) -> None:
        """A frame is what became known at once: one or several pieces."""
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

    def _join(self, batch: Sequence[Any]) -> Output:
        if self._form is OutputForm.VLLM:
            return vllm.joined(batch)
        return "".join(batch) if self._raw else list(batch)


def _events(frame: bytes) -> list[bytes]:
    return [event + _EVENT_END for event in frame.split(_EVENT_END) if event]


def _data(event: bytes) -> Json | None:
    """The JSON of a server-sent event; None for its end mark and for comments."""
    lines = [line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")]
    data = b"\n".join(lines)
    if not data or data == _DONE.encode():
        return None
    found: Json = orjson.loads(data)
    return found
