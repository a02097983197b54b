"""Events of the model -> the content blocks and events of one message.

    Started ─> message_start
    ReasoningDelta, TextDelta, ToolCall... ─> content_block_start, _delta, _stop of each in turn
    Usage ─> message_delta, message_stop

A whole answer goes the same way, without frames: both have the same blocks in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, assert_never

import orjson

from app.dialects.anthropic.errors import error_json
from app.errors import ServeError
from app.events import (
    Event,
    Finished,
    Progress,
    ReasoningDelta,
    Scored,
    Started,
    TextDelta,
    TokenIds,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from app.logs import setup as logs
from app.types import Json

Kind: TypeAlias = Literal["text", "thinking", "tool_use"]
PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":%b'
_FIELD: dict[Kind, tuple[str, str]] = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}


class _Block:
    """A content block while it grows."""

    def __init__(self, kind: Kind, index: int, start: Json) -> None:
        self.kind = kind
        self.index = index
        self.start = start
        self.pieces: list[str] = []
        name, field = _FIELD[kind]
        opening = b'{"type":"%b","%b":' % (name.encode(), field.encode())
        self.delta = _DELTA % (index, opening)

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class MessagePresenter:
    """Renders one message."""

    def __init__(
        self,
        *,
        id: str,
        model: str,
        max_tokens: int,
        stops: Sequence[str],
        sign: Callable[[str], str],
        hides_thinking: bool,
        stream: bool,
    ) -> None:
        """`max_tokens`: as asked; 0: nothing of the answer is shown. `stops`: the request's own.
        `sign`: makes a thinking block's signature."""
        self._head: Json = {"id": f"msg_{id}", "type": "message", "role": "assistant",
                            "model": model}  # fmt: skip
        self._max_tokens = max_tokens
        self._stops = frozenset(stops)
        self._sign = sign
        self._hides_thinking = hides_thinking
        self._stream = stream
        self._open: _Block | None = None
        self._closed: list[Json] = []
        self._calls = 0
        """Complete ones."""
        self._input: Json = {}
        self._finished: Finished | None = None
        self.final: bytes | None = None
        """The message, once it is complete."""

    # -- the events of the model -----------------------------------------------------------------

    def feed(self, event: Event) -> bytes:
        """Take an event; returns its frames, b"" if the answer is not streamed."""
        match event:
            case TextDelta(text):
                before, block = b"", self._open
                if block is None or block.kind != "text":
                    before, block = self._begin("text", {"type": "text", "text": ""})
                block.pieces.append(text)
                if not self._stream or not self._max_tokens:
                    return b""
                return b"%b%b%b}}\n\n" % (before, block.delta, orjson.dumps(text))
            case ReasoningDelta(text):
                return self._think(text)
            case ToolCallStarted(_, id, name):
                return self._call(id, name)
            case ToolCallDelta(_, arguments):
                assert self._open is not None
                return self._delta(self._open, arguments)
            case Started(prompt_tokens, cached_tokens):
                return self._start(prompt_tokens, cached_tokens)
            case Finished():
                self._finished = event
                return self._close(cut=event.cut_call)
            case Usage():
                return self._end(event)
            case Scored() | Progress() | TokenIds():
                return b""
            case _:
                assert_never(event)

    def heartbeat(self) -> bytes:
        return PING

    async def close(self) -> bytes:
        return b""  # the last event was the end

    def fail(self, error: ServeError) -> bytes:
        """The end of a stream that failed. Open blocks stay open."""
        return self._frame("error", error_json(error, logs.request_id.get() or ""))

    # -- blocks ----------------------------------------------------------------------------------

    def _start(self, prompt_tokens: int, cached_tokens: int) -> bytes:
        self._input = _input_json(prompt_tokens, cached_tokens)
        usage = self._input | _output_json(0, 0)
        message = self._head | {"content": []} | _ended(None, None) | {"usage": usage}
        return self._frame("message_start", {"type": "message_start", "message": message})

    def _begin(self, kind: Kind, start: Json) -> tuple[bytes, _Block]:
        before = self._close()
        block = self._open = _Block(kind, len(self._closed), start)
        event = {"type": "content_block_start", "index": block.index, "content_block": start}
        return before + self._frame("content_block_start", event), block

    def _think(self, text: str) -> bytes:
        before, block = b"", self._open
        if block is None or block.kind != "thinking":
            start = {"type": "thinking", "thinking": "", "signature": ""}
            before, block = self._begin("thinking", start)
        if self._hides_thinking:
            block.pieces.append(text)
            return before
        return before + self._delta(block, text)

    def _call(self, id: str, name: str) -> bytes:
        start = {
            "type": "tool_use",
            "id": "toolu_" + id.removeprefix("call_"),
            "name": name,
            "input": {},
            "caller": {"type": "direct"},
        }
        before, block = self._begin("tool_use", start)
        return before + self._delta(block, "")  # as Anthropic's first piece is

    def _delta(self, block: _Block, text: str) -> bytes:
        block.pieces.append(text)
        if not self._stream or not self._max_tokens:
            return b""
        return b"%b%b}}\n\n" % (block.delta, orjson.dumps(text))

    def _close(self, *, cut: bool = False) -> bytes:
        """End the open block. `cut`: it is a call whose arguments are not complete."""
        block, self._open = self._open, None
        if block is None:
            return b""
        frames = b""
        match block.kind:
            case "text":
                whole = {"type": "text", "text": block.text, "citations": None}
            case "thinking":
                signature = self._sign(block.text)
                shown = "" if self._hides_thinking else block.text
                whole = {"type": "thinking", "thinking": shown, "signature": signature}
                delta = {"type": "signature_delta", "signature": signature}
                event = {"type": "content_block_delta", "index": block.index, "delta": delta}
                frames = self._frame("content_block_delta", event)
            case "tool_use":
                arguments = _object(block.text)
                whole = block.start | {"input": arguments or {}}
                self._calls += arguments is not None and not cut
        self._closed.append(whole)
        stop = {"type": "content_block_stop", "index": block.index}
        return frames + self._frame("content_block_stop", stop)

    def _end(self, usage: Usage) -> bytes:
        reason, stop = self._reason(usage)
        shown = bool(self._max_tokens)
        counts = _input_json(usage.prompt_tokens, usage.cached_tokens) | _output_json(
            usage.completion_tokens if shown else 0, usage.reasoning_tokens if shown else 0
        )
        content = self._closed if shown else []
        message = self._head | {"content": content} | _ended(reason, stop) | {"usage": counts}
        self.final = orjson.dumps(message)
        delta: Json = {"type": "message_delta", "delta": _ended(reason, stop), "usage": counts}
        return self._frame("message_delta", delta, always=True) + self._frame(
            "message_stop", {"type": "message_stop"}, always=True
        )

    def _reason(self, usage: Usage) -> tuple[str, str | None]:
        finished = self._finished
        assert finished is not None
        if not self._max_tokens:
            return "max_tokens", None
        if finished.reason == "length":
            full = usage.completion_tokens < self._max_tokens
            return ("model_context_window_exceeded" if full else "max_tokens"), None
        if self._calls:
            return "tool_use", None
        if isinstance(finished.matched, str) and finished.matched in self._stops:
            return "stop_sequence", finished.matched
        return "end_turn", None

    def _frame(self, kind: str, event: Json, *, always: bool = False) -> bytes:
        shown = self._max_tokens or always or kind in ("message_start", "error")
        if not self._stream or not shown:
            return b""
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps(event))


def _ended(reason: str | None, stop: str | None) -> Json:
    return {
        "stop_reason": reason,
        "stop_sequence": stop,
        "stop_details": None,
        "container": None,
    }


def _input_json(prompt_tokens: int, cached_tokens: int) -> Json:
    """Of what was not cached nothing is told as written to the cache: the input would be 0."""
    return {
        "input_tokens": prompt_tokens - cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached_tokens,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
    }


def _output_json(tokens: int, thinking: int) -> Json:
    return {
        "output_tokens": tokens,
        "output_tokens_details": {"thinking_tokens": thinking},
        "server_tool_use": None,
        "service_tier": "standard",
        "inference_geo": None,
    }


def _object(arguments: str) -> Json | None:
    """A call's arguments; None if they are no whole object, and the call none to be run."""
    try:
        value = orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
