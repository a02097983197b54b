"""The way to the engine's processes and back, for everything that generates.

    ask ─ TokenizedGenerateReqInput ─> scheduler ─ one message a step, of ids ──────────┐
                                           └ or ─> detokenizer ─ one a step, of text ───┤
                                                                                        v
    Inbox of each request <─ one row each <─ Delivery <─ Exchange._readable

SGLang's own reader decodes some sixty columns, builds two dicts of each row and takes it through
five layers; here a row goes straight into its request's inbox (`delivery.py`). Every other message
goes to SGLang's own handlers.

Written against sglang 0.5.23; `tests/engine/test_sglang_contract.py` fails first when it changes.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from contextlib import ExitStack
from typing import Any

import zmq

from app import awake
from app.engine.base import Question
from app.engine.inbox import Inbox
from app.engine.sglang.delivery import Delivery
from app.engine.sglang.endings import aborted
from app.engine.sglang.observed import LoggedRequest, Series
from app.engine.sglang.pending import Pending
from app.engine.sglang.texts import Detokenizer
from app.engine.sglang.tokens import Vocabulary
from app.errors import InternalError
from app.logs.setup import log
from app.tracing.spans import carried
from app.types import Scoring


class Exchange:
    """Sends requests to the engine and hands out its output.

    All methods belong to the event loop.
    """

    def __init__(
        self,
        manager: Any,
        vocabulary: Vocabulary,
        detokenizer: Detokenizer | None,
        *,
        widest_stride: int,
    ) -> None:
        """`manager`: SGLang's TokenizerManager. `detokenizer`: None if SGLang's own process has the
        engine's ids first."""
        from sglang.srt.managers import io_struct
        from sglang.srt.observability.req_time_stats import APIServerReqTimeStats

        self._manager = manager
        self._io = io_struct
        self._times = APIServerReqTimeStats
        self._loop = asyncio.get_running_loop()
        self._to_engine: Any = zmq.Socket.shadow(manager.send_to_scheduler.underlying)
        self._from_engine: Any = zmq.Socket.shadow(manager.recv_from_detokenizer.underlying)
        self._encode = io_struct.msgpack_encode
        self._detokenizer = detokenizer
        self._phase = 0
        self.broken: asyncio.Future[str] = self._loop.create_future()
        """Done when the engine's output cannot be read any more; its result is the reason."""
        self.heard_at = awake.now()
        """When the engine's last message came, by `awake.now`."""
        self._handling: set[asyncio.Task[None]] = set()
        self._series = Series(manager.metrics_collector) if manager.enable_metrics else None
        self._delivery = Delivery(
            self._loop,
            io_struct.BatchStrOutput,
            vocabulary,
            self._series,
            widest_stride=widest_stride,
        )
        self._pending = self._delivery.pending
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
        self,
        id: str,
        question: Question,
        params: dict[str, Any],
        inbox: Inbox,
        choice: int = 0,
        *,
        media: list[Any] | None = None,
    ) -> Pending:
        """Have the engine answer into `inbox`; `params`: the sampling by SGLang's names. `media`:
        the prompt's pictures, once for each send. Raises ValueError if SGLang refuses the sampling,
        InternalError if the engine is gone."""
        manager = self._manager
        sampling = self._sampling(params)
        times = self._times(disagg_mode=manager.disaggregation_mode)
        if manager.enable_trace:
            times.init_trace_ctx(id, None, carried.get())
        times.set_created_time()
        scoring = question.scoring
        message = self._io.TokenizedGenerateReqInput(
            rid=id,
            input_text=None,
            input_ids=array("q", question.prompt),
            input_embeds=None,
            mm_inputs=media[-1] if media else None,
            token_type_ids=_token_types(media),
            sampling_params=sampling,
            return_logprob=scoring is not None,
            logprob_start_len=_scored_from(scoring),
            top_logprobs_num=0 if scoring is None else scoring.top,
            token_ids_logprob=None,
            stream=True,
            require_reasoning=question.gates_grammar,
            extra_key=question.cache_scope or None,
            priority=manager.default_priority_value if manager.enable_priority_scheduling else None,
            time_stats=times,
            lora_id=question.adapter,
        )
        times.set_tokenize_finish_time()
        detokenizer = self._detokenizer
        stream = detokenizer.stream(question.prompt, sampling) if detokenizer else None
        beams = params.get("n", 0)
        request = Pending(id, inbox, choice, question, times, beams=beams, stream=stream)
        times.set_api_server_dispatch_time()
        message.wrap_pickle_fields()
        if not self._send(message):
            raise InternalError("The engine takes no requests.")
        if media:
            media.pop()  # the scheduler's now
        times.set_api_server_dispatch_finish_time()
        if not self._pending:
            self.asked_at = awake.now()
        self._pending[id] = request
        if self._request_log is not None:
            request.log = LoggedRequest(self._request_log, manager.tokenizer, id, question, params)
        return request

    def _sampling(self, params: dict[str, Any]) -> Any:
        """Raises ValueError."""
        manager = self._manager
        sampling = manager.sampling_params_class(
            **{**(manager.preferred_sampling_params or {}), **params}
        )
        sampling.normalize(manager.tokenizer)
        sampling.verify(manager.model_config.vocab_size)
        return sampling

    @property
    def owes(self) -> bool:
        """The engine has requests of this process that it has not finished."""
        return bool(self._pending)

    @property
    def searches(self) -> bool:
        """One of them is a search with beams, of which nothing comes before its end."""
        return any(request.beams for request in self._pending.values())

    def abort(self, request: Pending) -> None:
        """Have the engine drop the request; its inbox gets nothing more.

        No effect once the request has ended.
        """
        if self._pending.pop(request.id, None) is None:
            return
        request.times.set_finished_time()
        self._send(self._io.AbortReq(rid=request.id))  # an engine that is gone has dropped it
        if self._series is not None:
            self._series.aborted()

    def _send(self, message: Any) -> bool:
        """False if no scheduler is connected: the engine is gone."""
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
        """Stop reading."""
        self._closing.close()

    def _readable(self) -> None:
        """ZeroMQ's descriptor signals only once, so read until the socket is empty."""
        while self._from_engine.get(zmq.EVENTS) & zmq.POLLIN and not self.broken.done():
            message = self._from_engine.recv(zmq.NOBLOCK)
            self.heard_at = awake.now()
            self._manager.last_receive_tstamp = time.time()
            try:
                self._take(message)
            except Exception as error:  # after one message that cannot be read, trust no other
                self._break(error)

    def _break(self, error: BaseException) -> None:
        log.error("the engine's output could not be read", exc_info=error)
        if not self.broken.done():
            self.broken.set_result(f"the engine's output could not be read: {error!r}"[:300])

    def _take(self, raw: bytes) -> None:
        if self._delivery.take(raw):
            return
        message = self._io.msgpack_decode(raw)
        if isinstance(message, self._io.FreezeGCReq | self._io.ConfigureLoggingReq):
            return  # to the detokenizer, in whose place this process is
        if isinstance(message, self._io.AbortReq):
            self._aborted(message)
        elif isinstance(message, self._io.BatchEmbeddingOutput):
            # It only awaits in order to let the requests run that it has woken.
            task = self._loop.create_task(self._manager._handle_batch_output(message))
            self._handling.add(task)
            task.add_done_callback(self._handled)
        else:
            self._manager._result_dispatcher(message)

    def _handled(self, task: asyncio.Task[None]) -> None:
        self._handling.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._break(error)

    def _aborted(self, message: Any) -> None:
        """The engine ended a request before it ran."""
        if (request := self._pending.pop(message.rid, None)) is None:
            if message.rid in self._manager.rid_to_state:  # an embedding, which SGLang waits for
                self._manager._result_dispatcher(message)
            return
        request.times.set_finished_time()
        finish = message.finished_reason or {"type": "abort", "message": message.abort_message}
        request.inbox.fail(aborted(finish))


def _scored_from(scoring: Scoring | None) -> int:
    """The prompt's first token whose score is wanted; -1: of the answer only."""
    return -1 if scoring is None or scoring.prompt_from is None else scoring.prompt_from


def _token_types(media: list[Any] | None) -> list[int] | None:
    """Which tokens are a picture's, for models that ask."""
    kinds = getattr(media[-1], "token_type_ids", None) if media else None
    return None if kinds is None else kinds.flatten().tolist()
