"""One job, from its input to its yields.

    SDK's task ── answer(job) <── outbox <── our task: gate ─ read_job ─ backend ─ Writer

The job has a task of its own because the SDK's task also posts the yields: when a job is stopped
during a post, its generator stays suspended until a garbage collection. Our task ends with the
SDK's, at once, and so does the request in the engine. Conversely, a drain's timeout and the loss of
the engine end our task, while the SDK's still posts their errors.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeAlias

import msgspec

from app import metrics
from app.dialects.error_forms import form_of
from app.errors import ClientGone, InternalError, ServeError, Unavailable
from app.gate import Gate, Ticket
from app.logs import setup as logs
from app.logs.setup import log
from app.runpod.backend import Backend, JobRequest, JobStats, OutputForm
from app.runpod.jobs import Rules, read_job
from app.runpod.outputs import JsonValue, Writer
from app.settings.catalogue import Settings
from app.stats import RequestStats, milliseconds
from app.tracing.spans import OPERATIONS, Ending, Span, Tracing
from app.types import Json

JobAnswerer: TypeAlias = Callable[[Json], AsyncGenerator[JsonValue, None]]
"""A job -> what the SDK posts for it."""

_END = object()
"""In the outbox: the job has ended."""


def job_answerer(
    settings: Settings, gate: Gate, backend: Backend, tracing: Tracing | None = None
) -> JobAnswerer:
    """The function that the SDK calls with each job. `tracing`: None if jobs have no spans.

    It is an async generator function and not another callable: the SDK inspects it.
    """
    rules = Rules.of(settings)

    async def answer(job: Json) -> AsyncGenerator[JsonValue, None]:
        outbox: asyncio.Queue[JsonValue] = asyncio.Queue()
        work = asyncio.create_task(
            _Job(job, outbox.put_nowait, rules, settings, gate, backend, tracing).run(),
            name="job",
        )
        posting = asyncio.current_task()
        assert posting is not None

        def stop(_: object) -> None:
            work.cancel()

        posting.add_done_callback(stop)
        try:
            while (output := await outbox.get()) is not _END:
                yield output
        finally:
            posting.remove_done_callback(stop)
            work.cancel()
            await asyncio.wait({work})

    return answer


class _Job:
    """One job while it is answered."""

    def __init__(
        self,
        job: Json,
        deliver: Callable[[JsonValue], None],
        rules: Rules,
        settings: Settings,
        gate: Gate,
        backend: Backend,
        tracing: Tracing | None,
    ) -> None:
        self._tracing = tracing
        self._span: Span | None = None
        self._job_id = str(job.get("id"))[:128]
        self._input: Any = job.get("input")
        self._deliver = deliver
        self._rules = rules
        self._raw = settings.raw_openai_output
        self._gate = gate
        self._backend = backend
        self._stats = JobStats(
            id=uuid.uuid4().hex, request=RequestStats(tracing is not None), log_fields={}
        )
        self._request: JobRequest | None = None
        self._writer: Writer | None = None
        self._status = 200
        self._ended_by: ServeError | None = None

    async def run(self) -> None:
        token = logs.request_id.set(self._job_id)
        log.info("request started", job=self._job_id)
        try:
            async with self._gate.admit(self._stats.id, self._job_id) as ticket:
                ticket.arrive()  # a job comes with its body
                await self._answer(ticket)
        except asyncio.CancelledError:
            self._note(ClientGone("The job was stopped."))
            metrics.DISCONNECTS.labels("streaming" if self._streaming else "waiting").inc()
            raise
        except ServeError as error:
            self._fail(error)
        except Exception:  # the outermost code of a job: its caller gets an error whatever failed
            log.exception("request failed", job=self._job_id)
            self._fail(InternalError("The server failed on this request."))
        finally:
            try:
                if self._writer is not None:
                    self._writer.abandon()
                self._finish()
                if self._span is not None and self._request is not None:
                    self._span.end(self._ending(self._request))
            finally:
                self._deliver(_END)  # or the job would never end
                logs.request_id.reset(token)

    async def _answer(self, ticket: Ticket) -> None:
        request = read_job(self._input, self._rules)
        self._input = None
        self._request = msgspec.structs.replace(request, body=b"")
        if self._tracing is not None and request.route in OPERATIONS:
            arrived = self._stats.request.arrived
            self._span = self._tracing.begin(OPERATIONS[request.route], request.route, (), arrived)
        writer = self._writer = Writer(request.form, request.growth, self._deliver, raw=self._raw)
        answer = self._backend.answer(request, self._stats, ticket)
        del request  # megabytes that are not needed while the engine answers
        await writer.write(await answer)

    @property
    def _streaming(self) -> bool:
        return self._writer is not None and self._writer.streaming

    def _fail(self, error: ServeError) -> None:
        self._note(error)
        if isinstance(error, Unavailable):
            metrics.REFUSED.labels(error.code or "").inc()
        route = self._request.route if self._request else ""
        details = form_of(route).body(error, self._stats.id)
        details["error"]["status"] = error.status
        if self._writer is not None:
            self._writer.fail(error)
        # By this key the SDK makes the job FAILED; it keeps the value as text.
        self._deliver({"error": json.dumps(details)})

    def _note(self, error: ServeError) -> None:
        self._status, self._ended_by = error.status, error

    def _ending(self, request: JobRequest) -> Ending:
        error = self._ended_by
        return Ending(
            id=self._job_id,
            route=request.route,
            method=request.method,
            status=self._status,
            error=error.code if error else None,
            at_fault=self._status >= 500,
            stats=self._stats.request,
            fields=self._stats.log_fields,
        )

    def _finish(self) -> None:
        stats, request, error = self._stats.request, self._request, self._ended_by
        duration_s = time.perf_counter() - stats.arrived
        route = self._backend.route_label(request.route) if request else "unmatched"
        method = request.method if request else "POST"
        metrics.REQUESTS.labels(route, method, str(self._status)).inc()
        metrics.DURATION.labels(route).observe(duration_s)
        metrics.record(stats)
        log.info(
            "request finished",
            job=self._job_id,
            path=request.route[:100] if request else None,
            status=self._status,
            duration_ms=milliseconds(duration_s),
            **self._stats.log_fields,
            **stats.log_fields(
                ended_by=error.code if error else None,
                error=error.message[:300] if error else None,
                param=error.param if error else None,
                form="vllm" if request and request.form is OutputForm.VLLM else None,
            ),
        )
