"""The way to the engine's processes and back, for everything that generates.

    ask ─ TokenizedGenerateReqInput ─> scheduler ─> detokenizer ─ one message a step ─┐
                                                                                      v
    Inbox of each request <─ one row each <─ the columns that are needed <─ Exchange._readable

Once per step comes one message of some sixty columns with a row for each request. SGLang's own
reader decodes all of them, builds two dicts of each row and takes it through five layers; here the
few columns that matter are decoded and a row goes straight into its request's inbox. Everything
that is not such a message goes to SGLang's own handlers.

Written against sglang 0.5.23; `tests/engine/test_sglang_contract.py` fails first when it changes.
"""

from __future__ import annotations

import asyncio
import functools
import time
from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import msgspec
import zmq

from app.engine.base import Chunk, Question
from app.engine.inbox import Inbox
from app.engine.pace import Pace
from app.engine.sglang.tokens import Vocabulary
from app.errors import InternalError, InvalidRequest, Overloaded
from app.events import EndReason
from app.logs.setup import log

_COLUMNS: dict[str, Any] = {
    "rids": list[str],
    "finished_reasons": list[dict[str, Any] | None],
    "output_strs": list[str],
    "prompt_tokens": list[int],
    "completion_tokens": list[int],
    "reasoning_tokens": list[int],
    "cached_tokens": list[int],
}
"""Of every message; the other columns are decoded when somebody asks for them."""
_SCORES = {
    side: [
        f"{side}_{name}"
        for name in (
            "token_logprobs_val", "token_logprobs_idx", "top_logprobs_val", "top_logprobs_idx",
        )
    ]
    for side in ("input", "output")
}  # fmt: skip


class Pending:
    """One request as the engine knows it: one choice."""

    __slots__ = (
        "choice", "first_at", "id", "inbox", "log", "plain", "prompt_given", "question", "times",
    )  # fmt: skip

    def __init__(self, id: str, inbox: Inbox, choice: int, question: Question, times: Any) -> None:
        self.id = id
        self.inbox = inbox
        self.choice = choice
        self.question = question
        self.times = times
        self.plain = question.scoring is None and not question.token_ids
        """Text and counts are all that is wanted."""
        self.log: _Logged | None = None
        self.first_at: float | None = None
        self.prompt_given = False


class _Logged:
    """LOG_REQUESTS: one request in SGLang's own log."""

    def __init__(
        self, logger: Any, tokenizer: Any, request: Pending, params: dict[str, Any]
    ) -> None:
        from sglang.srt.managers.io_struct import GenerateReqInput

        question = request.question
        self.text: list[str] = []
        self._logger = logger
        self._about = GenerateReqInput(
            input_ids=question.prompt,
            sampling_params=params,
            rid=request.id,
            stream=True,
        )
        logger.log_received_request(self._about, tokenizer)

    def finished(self, chunk: Chunk, reason: dict[str, Any], took_s: float) -> None:
        about = {
            "id": self._about.rid, "finish_reason": reason, "prompt_tokens": chunk.prompt_tokens,
            "completion_tokens": chunk.completion_tokens, "cached_tokens": chunk.cached_tokens,
            "e2e_latency": took_s,
        }  # fmt: skip
        text = "".join([*self.text, chunk.text])
        self._logger.log_finished_request(self._about, {"text": text, "meta_info": about})


class Exchange:
    """Asks the engine and hands out what it says. All methods belong to the event loop."""

    def __init__(self, manager: Any, vocabulary: Vocabulary, *, widest_stride: int) -> None:
        from sglang.srt.managers import io_struct
        from sglang.srt.observability.req_time_stats import APIServerReqTimeStats

        self._manager = manager
        self._vocabulary = vocabulary
        self._io = io_struct
        self._times = APIServerReqTimeStats
        self._loop = asyncio.get_running_loop()
        self._to_engine: Any = zmq.Socket.shadow(manager.send_to_scheduler.underlying)
        self._from_engine: Any = zmq.Socket.shadow(manager.recv_from_detokenizer.underlying)
        self._batch = _batch_type(io_struct.BatchStrOutput)
        self._begins_batch, self._decode = _decoder(io_struct.BatchStrOutput, self._batch)
        self._decode_column = msgspec.msgpack.Decoder(ext_hook=_ext_hook()).decode
        self._encode = io_struct.msgpack_encode
        self._pending: dict[str, Pending] = {}
        self._pace = Pace(self._loop, widest_stride)
        self._phase = 0
        self.broken: asyncio.Future[str] = self._loop.create_future()
        """Done when the engine's output cannot be read any more; its result is the reason."""
        self.heard_at = time.monotonic()
        """When the engine last said anything, by the monotonic clock."""
        self._handling: set[asyncio.Task[None]] = set()
        if manager.enable_metrics:
            _remember_series(manager.metrics_collector)
        self._request_log = manager.request_logger if manager.request_logger.log_requests else None
        self._closing = ExitStack()
        # It watches SGLang's own reader, which does not run.
        self._closing.enter_context(manager.soft_watchdog.disable())
        self._loop.add_reader(self._from_engine.FD, self._readable)
        self._closing.callback(self._loop.remove_reader, self._from_engine.FD)
        self._readable()

    # -- to the engine -----------------------------------------------------------------------

    def inbox(self) -> Inbox:
        self._phase += 1
        return Inbox(self._phase)

    def ask(
        self, id: str, question: Question, params: dict[str, Any], inbox: Inbox, choice: int = 0
    ) -> Pending:
        """Have the engine answer into `inbox`; `params`: the sampling by SGLang's names.

        Raises ValueError if SGLang refuses the sampling, InternalError if the engine is gone.
        """
        manager = self._manager
        sampling = manager.sampling_params_class(
            **{**(manager.preferred_sampling_params or {}), **params}
        )
        sampling.normalize(manager.tokenizer)
        sampling.verify(manager.model_config.vocab_size)
        times = self._times(disagg_mode=manager.disaggregation_mode)
        if manager.enable_trace:
            times.init_trace_ctx(id, None, None)
        times.set_created_time()
        scoring = question.scoring
        asked = self._io.TokenizedGenerateReqInput(
            rid=id,
            input_text=None,
            input_ids=array("q", question.prompt),
            input_embeds=None,
            mm_inputs=None,
            token_type_ids=None,
            sampling_params=sampling,
            return_logprob=scoring is not None,
            # -1: of the answer only.
            logprob_start_len=(
                -1 if scoring is None or scoring.prompt_from is None else scoring.prompt_from
            ),
            top_logprobs_num=0 if scoring is None else scoring.top,
            token_ids_logprob=None,
            stream=True,
            require_reasoning=question.gates_grammar,
            priority=manager.default_priority_value if manager.enable_priority_scheduling else None,
            time_stats=times,
        )
        times.set_tokenize_finish_time()
        request = Pending(id, inbox, choice, question, times)
        times.set_api_server_dispatch_time()
        asked.wrap_pickle_fields()
        if not self._send(asked):
            raise InternalError("The engine takes no requests.")
        times.set_api_server_dispatch_finish_time()
        self._pending[id] = request
        if self._request_log is not None:
            request.log = _Logged(self._request_log, manager.tokenizer, request, params)
        return request

    def abort(self, request: Pending) -> None:
        """Have the engine forget it; nothing more is heard of it. No effect once it has ended."""
        if self._pending.pop(request.id, None) is None:
            return
        request.times.set_finished_time()
        self._send(self._io.AbortReq(rid=request.id))  # if nobody takes it, it is forgotten anyway
        if self._manager.enable_metrics:
            collector = self._manager.metrics_collector
            collector.observe_one_aborted_request(collector.labels)

    def _send(self, message: Any) -> bool:
        """False if nobody is there to take it: the engine is gone."""
        if (name := self._manager.tokenizer_ipc_name) is not None:
            from sglang.srt.managers.tokenizer_manager import stamp_http_worker_ipc

            stamp_http_worker_ipc(message, name)
        try:
            self._to_engine.send(self._encode(message), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    # -- from the engine ---------------------------------------------------------------------

    def close(self) -> None:
        """Read no more."""
        self._closing.close()

    def _readable(self) -> None:
        """The socket says only once that there is something: all of it is taken."""
        while self._from_engine.get(zmq.EVENTS) & zmq.POLLIN and not self.broken.done():
            message = self._from_engine.recv(zmq.NOBLOCK)
            self.heard_at = time.monotonic()
            self._manager.last_receive_tstamp = time.time()
            try:
                self._take(message)
            except Exception as error:  # what cannot be read once cannot be trusted further
                self._break(error)

    def _break(self, error: BaseException) -> None:
        log.error("the engine's output could not be read", exc_info=error)
        if not self.broken.done():
            self.broken.set_result(f"the engine's output could not be read: {error!r}"[:300])

    def _take(self, message: bytes) -> None:
        if message.startswith(self._begins_batch):
            self._deliver(self._decode(message))
            return
        said = self._io.msgpack_decode(message)
        if isinstance(said, self._io.AbortReq):
            self._aborted(said)
        elif isinstance(said, self._io.BatchEmbeddingOutput):
            # It only ever waits to let those run whom it has woken.
            task = self._loop.create_task(self._manager._handle_batch_output(said))
            self._handling.add(task)
            task.add_done_callback(self._handled)
        else:
            self._manager._result_dispatcher(said)

    def _handled(self, task: asyncio.Task[None]) -> None:
        self._handling.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._break(error)

    def _deliver(self, batch: Any) -> None:
        pending, pace = self._pending, self._pace
        texts, finished = batch.output_strs, batch.finished_reasons
        prompts, completed, cached = (
            batch.prompt_tokens, batch.completion_tokens, batch.cached_tokens,
        )  # fmt: skip
        pace.begin()
        for row, id in enumerate(batch.rids):
            if (request := pending.get(id)) is None:
                continue  # aborted meanwhile
            if finished[row] is not None:
                self._finish(request, batch, row)
                continue
            inbox = request.inbox
            inbox.put(
                Chunk(request.choice, texts[row], prompts[row], completed[row], cached[row])
                if request.plain
                else self._detailed(request, batch, row)
            )
            if request.first_at is None:
                self._note_first(request)
                inbox.wake()
            else:
                pace.put(inbox)
            if request.log is not None:
                request.log.text.append(texts[row])
        pace.end()

    def _finish(self, request: Pending, batch: Any, row: int) -> None:
        del self._pending[request.id]
        if request.first_at is None:
            self._note_first(request)
        reason = batch.finished_reasons[row]
        request.times.set_finished_time()
        if self._manager.enable_metrics:
            self._observe(request, batch, row)
        try:
            finish, matched = _end_of(reason)
        except (InternalError, InvalidRequest, Overloaded) as error:
            request.inbox.fail(error)
            return
        chunk = msgspec.structs.replace(
            self._detailed(request, batch, row),
            reasoning_tokens=batch.reasoning_tokens[row], finish=finish, matched=matched,
        )  # fmt: skip
        request.inbox.put(chunk)
        request.inbox.wake()
        if request.log is not None:
            request.log.finished(chunk, reason, request.times.get_e2e_latency())

    def _detailed(self, request: Pending, batch: Any, row: int) -> Chunk:
        """A row with everything that was asked for."""
        question = request.question
        ids: Sequence[int] = ()
        scored: Any = ()
        prompt: Any = ()
        if question.token_ids:
            ids = self._cell(batch, "output_ids", row)
        if question.scoring is not None:
            scored = self._scores(batch, "output", row)
            if not request.prompt_given and question.scoring.prompt_from is not None:
                prompt = self._scores(batch, "input", row)
                request.prompt_given = bool(prompt)
        return Chunk(
            request.choice, batch.output_strs[row], batch.prompt_tokens[row],
            batch.completion_tokens[row], batch.cached_tokens[row],
            ids=ids, scored=scored, prompt=prompt,
        )  # fmt: skip

    def _scores(self, batch: Any, side: str, row: int) -> Any:
        found = [self._cell(batch, name, row) or () for name in _SCORES[side]]
        return self._vocabulary.scored(*found)

    def _cell(self, batch: Any, name: str, row: int) -> Any:
        """Of a column that is decoded once, when the first row of a message needs it; None if that
        is empty."""
        column = getattr(batch, name)
        if type(column) is msgspec.Raw:
            column = self._decode_column(column)
            setattr(batch, name, column)
        return column[row] if column and row < len(column) else None

    def _aborted(self, said: Any) -> None:
        """The engine ended a request that it had not begun."""
        if (request := self._pending.pop(said.rid, None)) is None:
            if said.rid in self._manager.rid_to_state:  # an embedding, which SGLang waits for
                self._manager._result_dispatcher(said)
            return
        request.times.set_finished_time()
        finish = said.finished_reason or {"type": "abort", "message": said.abort_message}
        request.inbox.fail(aborted(finish))

    # -- SGLang's own series -----------------------------------------------------------------

    def _note_first(self, request: Pending) -> None:
        request.first_at = time.perf_counter()
        request.times.set_first_token_time(request.first_at)

    def _observe(self, request: Pending, batch: Any, row: int) -> None:
        """What SGLang's reader counts, once for each request instead of once for each token."""
        assert request.first_at is not None
        collector, times = self._manager.metrics_collector, request.times
        labels = dict(collector.labels)
        tokens = batch.completion_tokens[row]
        kind = batch.finished_reasons[row].get("type")
        if kind != "abort":
            collector.observe_time_to_first_token(
                labels, times.get_first_token_latency(), stream=True
            )
            collector.observe_inter_token_latency(
                labels, times.finished_time - request.first_at, tokens - 1
            )
        details = self._cell(batch, "cached_tokens_details", row)
        verified = self._cell(batch, "spec_verify_ct", row)
        collector.observe_one_finished_request(
            labels,
            batch.prompt_tokens[row],
            tokens,
            batch.cached_tokens[row],
            times.get_e2e_latency(),
            request.question.sampling.grammar is not None,
            details,
            spec_verify_ct=verified or 0,
            is_streaming=True,
            time_per_output_token=(
                times.get_time_per_output_token(tokens) if kind != "abort" else None
            ),
        )


def _remember_series(collector: Any) -> None:
    """Look each series up once. SGLang does it for every observation; the labels are the server's
    own, a handful."""
    for metric in vars(collector).values():
        if callable(labels := getattr(metric, "labels", None)):
            metric.labels = functools.cache(labels)


def _batch_type(message: Any) -> Any:
    """SGLang's message with the columns of `_COLUMNS`; the others stay encoded."""
    columns = [
        (field.name, _COLUMNS.get(field.name, msgspec.Raw))
        for field in msgspec.structs.fields(message)
    ]
    return msgspec.defstruct("Batch", columns, array_like=True, tag=message.__name__, gc=False)


def _decoder(message: Any, batch: Any) -> tuple[bytes, Any]:
    """How such a message begins, and what decodes it."""
    length = len(msgspec.structs.fields(message)) + 1
    name = message.__name__.encode()
    head = b"\xdc" + length.to_bytes(2, "big") + bytes([0xA0 | len(name)]) + name
    return head, msgspec.msgpack.Decoder(batch).decode


def _ext_hook() -> Any:
    from sglang.srt.utils.msgpack_utils import ext_hook

    return ext_hook


def _end_of(finish: dict[str, Any]) -> tuple[EndReason, str | int | None]:
    """Raises what an abort means."""
    kind, matched = finish["type"], finish.get("matched")
    if kind == "abort":
        raise aborted(finish)
    if kind not in ("stop", "length") or matched == "NaN happened":
        raise InternalError("The model's output could not be sampled.")
    return kind, matched


def aborted(finish: dict[str, Any]) -> InternalError | InvalidRequest | Overloaded:
    """An abort by the engine as an error of ours."""
    message = str(finish.get("message") or "The engine ended this request.")[:400]
    if message.startswith(("Failed to compile", "Grammar preprocessing")):
        # The rest of the message may be the whole grammar.
        reason = message.partition(": ")[2].partition("grammar_key")[0][:200]
        return InvalidRequest(
            f"The engine cannot compile this schema or grammar: {reason}", param="response_format"
        )
    match finish.get("status_code"):
        case 400:
            return InvalidRequest(message)
        case 503:
            return Overloaded(message)
        case _:
            return InternalError(message)
