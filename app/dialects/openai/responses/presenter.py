"""Events of the model -> the items and the events of one response.

    Started ─> created, in_progress
    ReasoningDelta, TextDelta, ToolCall... ─> added, deltas, done of one item after the other
    Usage ─> (kept in the store) completed or incomplete

A whole answer goes the same way, without frames: both have the same items with the same ids.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, assert_never

import orjson

from app.dialects.contract import in_one_line, keep_alive
from app.dialects.json_array import encoded
from app.dialects.openai.frames import logprob_json
from app.dialects.openai.responses.numbering import apart, renumbered
from app.dialects.openai.responses.output_items import (
    THINKING,
    CallOutput,
    Channel,
    CustomCallOutput,
    MessageOutput,
    OutputItem,
    ThinkingOutput,
)
from app.dialects.openai.responses.response import Bytes, Keeper, Rendered, ResponseObject
from app.errors import RequestCancelled, ServeError, StoreUnavailable, TooLargeToKeep
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
from app.store.records import NotKept
from app.types import Json

_BEATS_S = 60.0


class _End(NamedTuple):
    """How the model has ended the response."""

    status: str
    output: list[Bytes]
    usage: Usage
    incomplete: str | None


class ResponsePresenter:
    """Renders one response."""

    def __init__(
        self,
        response: ResponseObject,
        *,
        owners: Mapping[str, tuple[str | None, str]],
        channel: Channel,
        seal: Callable[[str], str] | None,
        keeper: Keeper | None,
        scores: bool,
        stream: bool,
    ) -> None:
        """`owners`: of `Toolbox`. `seal`: as in `ThinkingOutput`. `keeper`: None: it is not kept.
        `scores`: texts carry their log-probabilities."""
        self._response = response
        self._owners = owners
        self._channel = channel
        self._seal = seal
        self._keeper = keeper
        self._wants_scores = scores
        self._stream = stream
        self._no = 0
        """Events so far."""
        self._begun = False
        self._closed: list[Bytes] = []
        """Complete items, as JSON."""
        differs = keeper is not None and (scores or channel == "hidden")
        self._context: list[Bytes] | None = [] if differs else None
        """The same as a later request reads them, if that differs."""
        self._open: OutputItem | None = None
        self._scored: list[ScoredToken] = []
        """Tokens whose text comes with the next delta."""
        self._finished: Finished | None = None
        self._end: _End | None = None
        self._beat_at = time.monotonic()
        """When a heartbeat was an event."""
        self.final: bytes | None = None
        """The response, once it has ended."""
        self.kept = False

    # -- the events of the model -----------------------------------------------------------------

    def feed(self, event: Event) -> bytes:
        """Take an event; returns its frames, b"" if the answer is not streamed."""
        match event:
            case TextDelta(text):
                before, item = b"", self._open
                if type(item) is not MessageOutput:
                    before, item = self._message()
                item.pieces.append(text)
                if self._scored:
                    return before + self._scored_delta(item, text)
                if not self._stream:
                    return b""
                self._no += 1
                return b"%b%b%d%b%b%b" % (
                    before,
                    item.delta_start,
                    self._no - 1,
                    item.delta_place,
                    orjson.dumps(text),
                    item.delta_end,
                )
            case ReasoningDelta(text):
                return self._think(text)
            case ToolCallStarted():
                return self._call(event)
            case ToolCallDelta(_, arguments):
                assert isinstance(self._open, CallOutput)
                self._scored.clear()
                return self._delta(self._open, arguments)
            case Scored(tokens, of_prompt=of_prompt):
                if self._wants_scores and not of_prompt:
                    self._scored += tokens
                return b""
            case Started():
                return self._begin()
            case Finished():
                return self._finish(event)
            case Usage():
                self._note_end(event)
                return b""
            case Progress() | TokenIds():
                return b""
            case _:
                assert_never(event)

    def heartbeat(self) -> bytes:
        """What keeps clients waiting: a comment, and each minute an event, since Codex counts no
        comments. A client's picture of the response is replaced by it: it has all of the output."""
        now = time.monotonic()
        if not self._begun:
            self._beat_at = now
            return self._begin()
        if now - self._beat_at < _BEATS_S:
            return keep_alive()
        self._beat_at = now
        return self._lifecycle("in_progress", self._so_far())

    async def close(self) -> bytes:
        """The last frame. Clients refer to a response, and its items, as soon as they have it."""
        assert self._end is not None
        status, output, usage, incomplete = self._end
        ended = self._response.render(status, output, usage=usage, incomplete=incomplete)
        if self._keeper is not None:
            try:
                await self._keeper.keep(status, ended, self._context)
                self.kept = True
            except (StoreUnavailable, TooLargeToKeep, NotKept):
                self._response.is_not_kept()
                ended = self._response.render(status, output, usage=usage, incomplete=incomplete)
        return self._last(status, ended)

    def fail(self, error: ServeError) -> bytes:
        """The end of a stream that failed, with the items that were complete. It is not kept."""
        if self._keeper is not None:
            self._response.is_not_kept()
        before = self._begin()
        return before + self._last(
            "failed", self._response.render("failed", self._closed, error=error)
        )

    # -- in the background -----------------------------------------------------------------------

    def now(self) -> bytes:
        if self.final is not None:
            return self.final
        return self._response.render(self._status, self._so_far()).json

    async def keep_begun(self) -> None:
        assert self._keeper is not None
        status = "in_progress"  # until its end: other servers know no more of it
        await self._keeper.keep(status, self._response.render(status, ()), None)

    async def abandon(self) -> None:
        assert self._keeper is not None
        await self._keeper.release()

    async def break_off(self, error: ServeError) -> bytes:
        """Keep it as failed, or as cancelled, which no event of OpenAI's says."""
        before = self._begin()
        if isinstance(error, RequestCancelled):
            status, event = "cancelled", "incomplete"
            output, failure = [*self._closed, *self._cut_off()], None
        else:
            status = event = "failed"
            output, failure = [*self._closed], error
        assert self._keeper is not None
        try:
            ended = self._response.render(status, output, error=failure)
            await self._keeper.keep(status, ended, None)
            self.kept = True
        except (StoreUnavailable, TooLargeToKeep, NotKept):
            self._response.is_not_kept()
            ended = self._response.render(status, output, error=failure)
        return before + self._last(event, ended)

    # -- after its end ---------------------------------------------------------------------------

    def replay(
        self,
        items: Sequence[tuple[OutputItem, str, str, Sequence[Json]]],
        event: str,
        response: Rendered,
        after: int,
    ) -> bytes:
        """The frames after this number. `items`: each with its text, its status and its scores.

        If there were more while it was generated: those that end its items, which have the texts.
        """
        frames, ends = [self._begin()], []
        for item, text, status, scores in items:
            frames.append(self._opened(item))
            if isinstance(item, MessageOutput) and scores:
                item.pieces.append(text)
                item.scores.extend(scores)
                delta = {"delta": text, "logprobs": scores}
                frames.append(self._of(item, [("output_text.delta", delta)]))
            elif text:
                frames.append(self._delta(item, text))
            if status == "completed" or not isinstance(item, CallOutput):
                ends.append(self._close(status))
                frames.append(ends[-1])
            else:  # it was cut off
                self._open = None
        every = apart(b"".join(frames))
        # Up to the first delta the numbers are the same.
        same = next((no for no, frame in enumerate(every) if b".delta\n" in frame), len(every))
        wanted = every[after + 1 :]
        if after >= same:
            wanted, self._no = renumbered(apart(b"".join(ends)), after + 1)
        last = self._last(event, response)
        return in_one_line(b"".join([frame + b"\n\n" for frame in wanted])) + last

    @property
    def _status(self) -> str:
        return "in_progress" if self._begun else "queued"

    def _so_far(self) -> list[Bytes]:
        output = list(self._closed)
        if self._open is not None:
            output.append(encoded(self._open.json("in_progress")))
        return output

    def _cut_off(self) -> list[Bytes]:
        return [] if self._open is None else [encoded(self._open.json("incomplete"))]

    def _last(self, event: str, response: Rendered) -> bytes:
        self.final = response.json
        return self._frame(event, {"response": orjson.Fragment(self.final)})

    # -- items -----------------------------------------------------------------------------------

    def _begin(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        return self._lifecycle("created", ()) + self._lifecycle("in_progress", ())

    def _message(self) -> tuple[bytes, MessageOutput]:
        frames = self._close()
        item = MessageOutput(self._id("msg"), len(self._closed))
        return frames + self._opened(item), item

    def _think(self, text: str) -> bytes:
        frames, item = b"", self._open
        self._scored.clear()
        if not isinstance(item, ThinkingOutput):
            frames = self._close()
            kind = THINKING[self._channel]
            item = kind(self._id("rs"), len(self._closed), self._seal)
            frames += self._opened(item)
        return frames + self._delta(item, text)

    def _call(self, call: ToolCallStarted) -> bytes:
        self._scored.clear()
        frames = self._close()
        prefix, kind = ("ctc", CustomCallOutput) if call.freeform else ("fc", CallOutput)
        owner = self._owners.get(call.name, (None, call.name))
        return frames + self._opened(kind(self._id(prefix), len(self._closed), call.id, owner))

    def _opened(self, item: OutputItem) -> bytes:
        self._open = item
        place = {"output_index": len(self._closed), "item": item.json("in_progress")}
        return self._frame("output_item.added", place) + self._of(item, item.opening())

    def _close(self, status: str = "completed") -> bytes:
        """End the open item."""
        item, self._open = self._open, None
        if item is None:
            return b""
        frames = b""
        if isinstance(item, MessageOutput) and self._scored:
            frames = self._scored_delta(item, "")  # tokens that have no text
        frames += self._of(item, item.closing())
        json = encoded(item.json(status))
        place = {"output_index": len(self._closed), "item": orjson.Fragment(json)}
        self._closed.append(json)
        if self._context is not None:
            self._context.append(orjson.dumps(item.context(status)))
        return frames + self._frame("output_item.done", place)

    def _finish(self, finished: Finished) -> bytes:
        self._finished = finished
        frames = b""
        if self._open is None and not self._closed:
            frames, _ = self._message()  # clients expect some item
        if isinstance(self._open, CallOutput):
            # Codex runs every call that is done, whatever its status: one that was cut off is not.
            return frames if finished.cut_call else frames + self._close()
        return frames + self._close("incomplete" if finished.reason == "length" else "completed")

    def _note_end(self, usage: Usage) -> None:
        assert self._finished is not None
        output = [*self._closed, *self._cut_off()]
        if self._context is not None and self._open is not None:
            self._context.append(orjson.dumps(self._open.context("incomplete")))
        cut = self._finished.reason == "length" or self._finished.cut_call
        if cut:
            self._end = _End("incomplete", output, usage, "max_output_tokens")
        else:
            self._end = _End("completed", output, usage, None)

    def _id(self, prefix: str) -> str:
        """The response's id and the item's place: an item is found by its id alone."""
        return f"{prefix}_{self._response.id.partition('_')[2]}{len(self._closed):04x}"

    # -- log-probabilities -----------------------------------------------------------------------

    def _keep_scores(self, item: MessageOutput) -> list[orjson.Fragment]:
        scores = [logprob_json(token) for token in self._scored]
        self._scored.clear()
        item.scores.extend(scores)
        return scores

    def _scored_delta(self, item: MessageOutput, text: str) -> bytes:
        delta = {"delta": text, "logprobs": self._keep_scores(item)}
        return self._of(item, [("output_text.delta", delta)])

    # -- frames ----------------------------------------------------------------------------------

    def _frame(self, kind: str, fields: Json) -> bytes:
        if not self._stream:
            return b""
        fields = {"type": f"response.{kind}", "sequence_number": self._no, **fields}
        event = in_one_line(encoded(fields))
        self._no += 1
        return b"event: response.%b\ndata: %b\n\n" % (kind.encode(), event)

    def _lifecycle(self, kind: str, output: Sequence[Bytes]) -> bytes:
        if not self._stream:
            return b""
        response = self._response.render("in_progress", output).json
        return self._frame(kind, {"response": orjson.Fragment(response)})

    def _of(self, item: OutputItem, events: Iterable[tuple[str, Json]]) -> bytes:
        if not self._stream:
            return b""
        place: Json = {"item_id": item.id, "output_index": len(self._closed)}
        frames = []
        for kind, fields in events:
            part = {} if item.part_index is None else {item.part_index: 0}
            frames.append(self._frame(kind, place | part | fields))
        return b"".join(frames)

    def _delta(self, item: OutputItem, text: str) -> bytes:
        item.pieces.append(text)
        if not self._stream or not item.delta_start:
            return b""
        self._no += 1
        return b"%b%d%b%b%b" % (
            item.delta_start,
            self._no - 1,
            item.delta_place,
            orjson.dumps(text),
            item.delta_end,
        )
