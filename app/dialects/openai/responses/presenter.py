"""Events of the model -> the items and the events of one response.

    Started ─> created, in_progress
    ReasoningDelta, TextDelta, ToolCall... ─> added, deltas, done of one item after the other
    Usage ─> completed or incomplete

A whole answer goes the same way, without frames: both have the same items with the same ids. What
clients enforce of the order, and what they do otherwise, is in docs/api.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias, assert_never

import orjson

from app.dialects.json_array import JsonArray, encoded
from app.dialects.openai.frames import logprob_json
from app.dialects.openai.responses.response import Bytes, ResponseObject
from app.dialects.openai.responses.toolbox import Toolbox
from app.errors import ServeError
from app.events import (
    Event,
    Finished,
    Progress,
    ReasoningDelta,
    Scored,
    ScoredToken,
    Started,
    TextDelta,
    TokenIds,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from app.types import Json

Channel: TypeAlias = Literal["text", "summary", "hidden"]
"""How the thinking is shown: as itself, as its summary, or not at all."""


class _Item:
    """An item of the output while it grows."""

    kind = ""

    def __init__(self, id: str) -> None:
        self.id = id
        self.pieces: list[str] = []
        self.delta_head = b""
        self.delta_tail = b""

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class _Message(_Item):
    kind = "message"

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.scores = JsonArray()

    def part(self) -> Json:
        return {
            "type": "output_text",
            "text": self.text,
            "annotations": [],
            "logprobs": self.scores,
        }

    def json(self, status: str) -> Json:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [self.part()] if self.pieces or status != "in_progress" else [],
        }


class _Thinking(_Item):
    kind = "reasoning"

    def __init__(self, id: str, channel: Channel, seal: Callable[[str], str] | None) -> None:
        super().__init__(id)
        self.channel = channel
        self._seal = seal

    def part(self) -> Json:
        kind = "reasoning_text" if self.channel == "text" else "summary_text"
        return {"type": kind, "text": self.text}

    def json(self, status: str) -> Json:
        shown = [self.part()] if self.pieces and self.channel != "hidden" else []
        item: Json = {"id": self.id, "type": "reasoning", "summary": []}
        if self.channel == "text":
            item["content"] = shown
        elif self.channel == "summary":
            item["summary"] = shown
        if self._seal is not None and status != "in_progress":
            item["encrypted_content"] = self._seal(self.text)
        return item | {"status": status}


class _Call(_Item):
    def __init__(self, id: str, call_id: str, owner: tuple[str | None, str], custom: bool) -> None:
        super().__init__(id)
        self.kind = "custom_tool_call" if custom else "function_call"
        self._call_id = call_id
        namespace, self.name = owner
        self._namespace = {} if namespace is None else {"namespace": namespace}
        self._key = "input" if custom else "arguments"

    @property
    def custom(self) -> bool:
        return self._key == "input"

    def json(self, status: str) -> Json:
        return {
            "id": self.id,
            "type": self.kind,
            "call_id": self._call_id,
            "name": self.name,
            **self._namespace,
            self._key: self.text,
            "status": status,
        }


class ResponsePresenter:
    """Renders one response."""

    def __init__(
        self,
        response: ResponseObject,
        *,
        tools: Toolbox,
        channel: Channel,
        seal: Callable[[str], str] | None,
        scores: bool,
        stream: bool,
    ) -> None:
        """`seal`: makes the thinking's `encrypted_content`, if the client wants it. `scores`: texts
        carry their log-probabilities."""
        self._response = response
        self._tools = tools
        self._channel = channel
        self._seal = seal
        self._wants_scores = scores
        self._stream = stream
        self._no = 0
        self._begun = False
        self._closed: list[Bytes] = []
        self._open: _Message | _Thinking | _Call | None = None
        self._scored: list[ScoredToken] = []
        self._finished: Finished | None = None
        self.final: bytes | None = None
        """The response, once it is complete."""

    # -- the events of the model -----------------------------------------------------------------

    def feed(self, event: Event) -> bytes:
        """Take an event; returns its frames, b"" if the answer is not streamed."""
        match event:
            case TextDelta(text):
                item = self._open
                before = b""
                if type(item) is not _Message:
                    before, item = self._open_message()
                item.pieces.append(text)
                if not self._stream:
                    return self._keep_scores(item)
                if self._scored:
                    return before + self._scored_delta(item, text)
                self._no += 1
                return b"%b%b%d%b%b%b" % (
                    before,
                    _TEXT_DELTA,
                    self._no - 1,
                    item.delta_head,
                    orjson.dumps(text),
                    item.delta_tail,
                )
            case ReasoningDelta(text):
                self._scored.clear()
                return self._think(text)
            case ToolCallStarted():
                self._scored.clear()
                return self._open_call(event)
            case ToolCallDelta(_, arguments):
                self._scored.clear()
                return self._argue(arguments)
            case Scored(tokens, of_prompt=of_prompt):
                if self._wants_scores and not of_prompt:
                    self._scored += tokens
                return b""
            case Started():
                return self._begin()
            case Finished():
                return self._finish(event)
            case Usage():
                return self._end(event)
            case Progress() | TokenIds():
                return b""
            case _:
                assert_never(event)

    def heartbeat(self) -> bytes:
        """What keeps clients waiting: Codex counts events, and no comments. The client's picture of
        the response is replaced by it, so that it has all of the output."""
        if not self._begun:
            return self._begin()
        output = list(self._closed)
        if self._open is not None:
            output.append(encoded(self._open.json("in_progress")))
        return self._about("response.in_progress", "in_progress", output)

    def fail(self, error: ServeError) -> bytes:
        """The end of a stream that failed: with the items that were complete."""
        before = b"" if self._begun else self._begin()
        self.final = self._response.render("failed", self._closed, error=error)
        return before + self._frame("response.failed", {"response": orjson.Fragment(self.final)})

    # -- items -----------------------------------------------------------------------------------

    def _begin(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        created = self._about("response.created", "in_progress", ())
        return created + self._about("response.in_progress", "in_progress", ())

    def _open_message(self) -> tuple[bytes, _Message]:
        frames = self._close()
        item = self._open = _Message(self._id("msg"))
        frames += self._added(item)
        frames += self._of_part(item, "response.content_part.added", {"part": item.part()})
        item.delta_head = self._place(item, "content_index")
        item.delta_tail = b',"logprobs":[]}\n\n'
        return frames, item

    def _think(self, text: str) -> bytes:
        frames, item = b"", self._open
        if not isinstance(item, _Thinking):
            frames = self._close()
            item = self._open = _Thinking(self._id("rs"), self._channel, self._seal)
            frames += self._added(item)
            if item.channel != "hidden":
                added = _PART_ADDED[item.channel]
                frames += self._of_part(item, added, {"part": item.part()})
            item.delta_head = self._place(item, _INDEX[item.channel])
            item.delta_tail = b"}\n\n"
        item.pieces.append(text)
        return frames + self._delta(_THOUGHT_DELTA[item.channel], item, text)

    def _open_call(self, call: ToolCallStarted) -> bytes:
        frames = self._close()
        owner = self._tools.owner(call.name)
        id = self._id("ctc" if call.freeform else "fc")
        item = self._open = _Call(id, call.id, owner, call.freeform)
        item.delta_head = self._place(item)
        item.delta_tail = b"}\n\n"
        return frames + self._added(item)

    def _argue(self, arguments: str) -> bytes:
        item = self._open
        assert isinstance(item, _Call)
        item.pieces.append(arguments)
        kind = _INPUT_DELTA if item.custom else _ARGUMENTS_DELTA
        return self._delta(kind, item, arguments)

    def _close(self, status: str = "completed") -> bytes:
        """End the open item."""
        item, self._open = self._open, None
        if item is None:
            return b""
        frames = b""
        match item:
            case _Message():
                self._keep_scores(item)
                done = {"text": item.text, "logprobs": item.scores}
                frames += self._of_part(item, "response.output_text.done", done)
                frames += self._of_part(item, "response.content_part.done", {"part": item.part()})
            case _Thinking(channel="text"):
                done = {"text": item.text}
                frames += self._of_part(item, "response.reasoning_text.done", done)
                frames += self._of_part(item, "response.content_part.done", {"part": item.part()})
            case _Thinking(channel="summary"):
                done = {"text": item.text}
                frames += self._of_part(item, "response.reasoning_summary_text.done", done)
                part = {"part": item.part()}
                frames += self._of_part(item, "response.reasoning_summary_part.done", part)
            case _Call(custom=True):
                done = {"input": item.text}
                frames += self._of(item, "response.custom_tool_call_input.done", done)
            case _Call():
                done = {"name": item.name, "arguments": item.text}
                frames += self._of(item, "response.function_call_arguments.done", done)
        json = encoded(item.json(status))
        place = {"output_index": len(self._closed), "item": orjson.Fragment(json)}
        self._closed.append(json)
        return frames + self._frame("response.output_item.done", place)

    def _finish(self, finished: Finished) -> bytes:
        self._finished = finished
        cut = finished.reason == "length"
        frames = b""
        if self._open is None and not self._closed:
            frames, _ = self._open_message()
        if isinstance(self._open, _Call):
            # Codex runs every call that is done, whatever its status: one that was cut off is not.
            return frames if finished.cut_call else frames + self._close()
        return frames + self._close("incomplete" if cut else "completed")

    def _end(self, usage: Usage) -> bytes:
        assert self._finished is not None
        cut = self._finished.reason == "length"
        output = list(self._closed)
        if self._open is not None:
            output.append(encoded(self._open.json("incomplete")))
        status = "incomplete" if cut else "completed"
        self.final = self._response.render(
            status, output, usage=usage, incomplete="max_output_tokens" if cut else None
        )
        return self._frame(f"response.{status}", {"response": orjson.Fragment(self.final)})

    def _id(self, prefix: str) -> str:
        """The response's id and the item's place: an item is found by its id alone."""
        return f"{prefix}_{self._response.id.partition('_')[2]}{len(self._closed):04x}"

    # -- log-probabilities -----------------------------------------------------------------------

    def _keep_scores(self, item: _Message) -> bytes:
        if self._scored:
            item.scores.extend([logprob_json(token) for token in self._scored])
            self._scored.clear()
        return b""

    def _scored_delta(self, item: _Message, text: str) -> bytes:
        scores = [logprob_json(token) for token in self._scored]
        self._scored.clear()
        item.scores.extend(scores)
        delta = {"delta": text, "logprobs": scores}
        return self._of_part(item, "response.output_text.delta", delta)

    # -- frames ----------------------------------------------------------------------------------

    def _frame(self, kind: str, fields: Json) -> bytes:
        if not self._stream:
            return b""
        event = encoded({"type": kind, "sequence_number": self._no, **fields})
        self._no += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), event)

    def _about(self, kind: str, status: str, output: list[Bytes] | tuple[()]) -> bytes:
        if not self._stream:
            return b""
        response = self._response.render(status, output)
        return self._frame(kind, {"response": orjson.Fragment(response)})

    def _added(self, item: _Message | _Thinking | _Call) -> bytes:
        place = {"output_index": len(self._closed), "item": item.json("in_progress")}
        return self._frame("response.output_item.added", place)

    def _of(self, item: _Item, kind: str, fields: Json) -> bytes:
        place = {"item_id": item.id, "output_index": len(self._closed)}
        return self._frame(kind, place | fields)

    def _of_part(self, item: _Item, kind: str, fields: Json) -> bytes:
        index = "summary_index" if "summary" in kind else "content_index"
        return self._of(item, kind, {index: 0, **fields})

    def _place(self, item: _Item, index: str | None = None) -> bytes:
        """The JSON of a delta between its number and its text."""
        part = b"" if index is None else b',"%b":0' % index.encode()
        return b',"item_id":"%b","output_index":%d%b,"delta":' % (
            item.id.encode(),
            len(self._closed),
            part,
        )

    def _delta(self, head: bytes, item: _Item, text: str) -> bytes:
        if not self._stream or not head:
            return b""
        self._no += 1
        return b"%b%d%b%b%b" % (
            head,
            self._no - 1,
            item.delta_head,
            orjson.dumps(text),
            item.delta_tail,
        )


def _delta_of(kind: str) -> bytes:
    """The frame of a delta up to its number."""
    name = f"response.{kind}.delta".encode()
    return b'event: %b\ndata: {"type":"%b","sequence_number":' % (name, name)


_TEXT_DELTA = _delta_of("output_text")
_ARGUMENTS_DELTA = _delta_of("function_call_arguments")
_INPUT_DELTA = _delta_of("custom_tool_call_input")
_THOUGHT_DELTA: dict[Channel, bytes] = {
    "text": _delta_of("reasoning_text"),
    "summary": _delta_of("reasoning_summary_text"),
    "hidden": b"",
}
_PART_ADDED = {
    "text": "response.content_part.added",
    "summary": "response.reasoning_summary_part.added",
}
_INDEX: dict[Channel, str | None] = {
    "text": "content_index",
    "summary": "summary_index",
    "hidden": None,
}
