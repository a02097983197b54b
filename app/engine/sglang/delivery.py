"""The engine's output, a row at a time, into the inbox of each request.

It comes in one of two ways: as ids straight from the scheduler (`steps.py`), or as text from
SGLang's detokenizer (`columns.py`), where there is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from app.engine.base import Chunk
from app.engine.pace import Pace
from app.engine.sglang import beams
from app.engine.sglang.columns import Columns
from app.engine.sglang.endings import end_of
from app.engine.sglang.observed import Series
from app.engine.sglang.pending import Pending
from app.engine.sglang.steps import BEAMS, SCORE_COLUMNS, End, Step, Steps
from app.engine.sglang.tokens import ScoredColumns, Vocabulary
from app.errors import InternalError, InvalidRequest, Overloaded
from app.logs.setup import log


class Row(NamedTuple):
    """What a message says of one request."""

    text: str
    ids: Sequence[int]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cell: Callable[[str], Any]
    """SGLang's column of that name in this row, of those that few need."""


class Ended(NamedTuple):
    """What the last message says besides."""

    reason: dict[str, Any]
    reasoning_tokens: int
    verified: int
    cached_details: Any


class Delivery:
    """To the requests that wait. All methods belong to the event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        message: Any,
        vocabulary: Vocabulary,
        series: Series | None,
        *,
        widest_stride: int,
    ) -> None:
        """`message`: SGLang's class `BatchStrOutput`."""
        self.pending: dict[str, Pending] = {}
        self._columns = Columns(message)
        self._steps = Steps()
        self._vocabulary = vocabulary
        self._series = series
        self._pace = Pace(loop, widest_stride)

    def take(self, raw: bytes) -> bool:
        """False if the message is no output of generation."""
        if raw.startswith(self._steps.prefix):
            self._deliver_ids(self._steps.decode(raw))
        elif raw.startswith(self._columns.prefix):
            self._deliver_texts(self._columns.decode(raw))
        else:
            return False
        return True

    def _deliver_ids(self, step: Step) -> None:
        pending = self.pending
        prompts, cached = step.prompt_tokens, step.cached_tokens
        ends = {end.row: end for end in step.ends}
        self._pace.begin()
        for row, (id, ids) in enumerate(zip(step.rids, step.ids, strict=True)):
            if (request := pending.get(id)) is None:
                continue  # aborted meanwhile
            stream = request.stream
            assert stream is not None
            request.tokens = tokens = request.tokens + len(ids)
            if row in ends or not request.plain:
                self._deliver_row(request, step, row, ends.get(row))
                continue
            text = stream.feed(ids)
            chunk = Chunk(request.choice, text, prompts[row], tokens, cached[row])
            self._put(request, chunk)
        self._pace.end()

    def _deliver_row(self, request: Pending, step: Step, row: int, end: End | None) -> None:
        """One that ends, or that wants more than text."""
        stream, ids = request.stream, step.ids[row]
        assert stream is not None

        def cell(name: str) -> Any:
            return self._steps.cell(step, name, row)

        prompt_tokens, cached_tokens = step.prompt_tokens[row], step.cached_tokens[row]
        if request.beams:  # whose row has ids that are not its sequences'
            text, request.tokens = "", beams.tokens(cell(BEAMS))
        else:
            text = stream.feed(ids) if end is None else stream.end(ids, end.reason)
        whole = Row(text, ids, prompt_tokens, request.tokens, cached_tokens, cell)
        if end is None:
            self._put(request, self._detailed(request, whole))
            return
        # As SGLang says it of a cache without other levels; others have its detokenizer.
        details = {"device": cached_tokens, "host": 0} if cached_tokens else None
        self._finish(request, whole, Ended(end.reason, end.reasoning_tokens, end.verified, details))

    def _deliver_texts(self, batch: Any) -> None:
        pending, pace = self.pending, self._pace
        texts, finished = batch.output_strs, batch.finished_reasons
        prompts, completed = batch.prompt_tokens, batch.completion_tokens
        cached = batch.cached_tokens
        pace.begin()
        for row, id in enumerate(batch.rids):
            if (request := pending.get(id)) is None:
                continue  # aborted meanwhile
            if finished[row] is None and request.plain:
                chunk = Chunk(request.choice, texts[row], prompts[row], completed[row], cached[row])
                self._put(request, chunk)
                continue
            whole = self._row(batch, row)
            if finished[row] is None:
                self._put(request, self._detailed(request, whole))
                continue
            end = Ended(
                finished[row],
                batch.reasoning_tokens[row],
                whole.cell("spec_verify_ct") or 0,
                whole.cell("cached_tokens_details"),
            )
            self._finish(request, whole, end)
        pace.end()

    def _row(self, batch: Any, row: int) -> Row:
        def cell(name: str) -> Any:
            return self._columns.cell(batch, name, row)

        return Row(
            batch.output_strs[row],
            cell("output_ids") or (),
            batch.prompt_tokens[row],
            batch.completion_tokens[row],
            batch.cached_tokens[row],
            cell,
        )

    def _put(self, request: Pending, chunk: Chunk) -> None:
        inbox = request.inbox
        inbox.put(chunk)
        if request.first_at is None:
            request.note_first()
            inbox.wake()
        else:
            self._pace.put(inbox)
        if request.log is not None:
            request.log.text.append(chunk.text)

    def _finish(self, request: Pending, row: Row, end: Ended) -> None:
        del self.pending[request.id]
        if request.first_at is None:
            request.note_first()
        request.times.set_finished_time()
        if self._series is not None:
            assert request.first_at is not None
            self._series.finished(
                prompt_tokens=row.prompt_tokens,
                completion_tokens=row.completion_tokens,
                cached_tokens=row.cached_tokens,
                reason=end.reason,
                times=request.times,
                first_at=request.first_at,
                constrained=request.question.sampling.grammar is not None,
                cached_details=end.cached_details,
                verified=end.verified,
            )
        try:
            if request.beams:
                self._finish_beams(request, row, end.reason)
                return
            finish, matched = end_of(end.reason)
        except (InternalError, InvalidRequest, Overloaded) as error:
            request.inbox.fail(error)
            return
        chunk = msgspec.structs.replace(
            self._detailed(request, row),
            reasoning_tokens=end.reasoning_tokens,
            finish=finish,
            matched=matched,
        )
        request.inbox.put(chunk)
        request.inbox.wake()
        if request.log is not None:
            request.log.finished(chunk, end.reason, request.times.get_e2e_latency())

    def _finish_beams(self, request: Pending, row: Row, reason: dict[str, Any]) -> None:
        """Raises as `end_of`."""
        if reason["type"] == "abort" and reason.get("status_code") == 400:
            log.warning("the engine refused a search", reason=str(reason.get("message"))[:400])
            raise beams.refused()
        end_of(reason)
        found = beams.sequences(row.cell(BEAMS), request.beams)
        if request.stream is not None:
            for sequence in found:
                sequence["text"] = request.stream.whole(
                    sequence["tokens"], sequence["finish_reason"]
                )
        for chunk in beams.chunks(found, row.prompt_tokens, row.cached_tokens):
            request.inbox.put(chunk)
        request.inbox.wake()

    def _detailed(self, request: Pending, row: Row) -> Chunk:
        """With everything that the request wants."""
        question = request.question
        scored: Any = ()
        prompt: Any = ()
        if question.scoring is not None:
            scored = self._vocabulary.scored(*_scores(row, "output"))
            if not request.prompt_scored and question.scoring.prompt_from is not None:
                prompt = ScoredColumns(self._vocabulary, _scores(row, "input"))
                request.prompt_scored = bool(prompt)
        return Chunk(
            request.choice,
            row.text,
            row.prompt_tokens,
            row.completion_tokens,
            row.cached_tokens,
            ids=row.ids if question.token_ids else (),
            scored=scored,
            prompt=prompt,
        )


def _scores(row: Row, side: str) -> list[Sequence[Any]]:
    return [row.cell(name) or () for name in SCORE_COLUMNS[side]]
