"""One job, from its input to its yields.

    SDK's task ── answer(job) <── outbox <── task of ours: gate ─ read_job ─ backend ─ Writer

The work has a task of its own because the SDK's is busy posting: a job that is stopped while a
yield is being posted leaves its generator suspended until the garbage collector finds it. Ours ends
with the SDK's task, at once, and so does the request in the engine. The other way round, the end of
a drain and the engine's death end the work, not the posting of what they have to say.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeAlias

from app import metrics
from app.dialects.error_forms import form_of
from app.errors import ClientGone, InternalError, ServeError, Unavailable
from app.gate import Gate
from app.logs import setup as logs
from app.logs.setup import log
from app.runpod.backend import Backend, JobRequest, JobStats, OutputForm
from app.runpod.jobs import Rules, read_job
from app.runpod.outputs import Output, Writer
from app.settings.catalogue import Settings
from app.stats import RequestStats, milliseconds
from app.types import Json

Handler: TypeAlias = Callable[[Json], AsyncGenerator[Output, None]]

_END = object()


def handler(settings: Settings, gate: Gate, backend: Backend) -> Handler:
    """What the SDK is given. It must be an async generator function itself: the SDK asks."""
    rules = Rules.of(settings)

    async def answer(job: Json) -> AsyncGenerator[Output, None]:
        outbox: asyncio.Queue[Output] = asyncio.Queue()
        work = asyncio.create_task(
            _Work(job, outbox.put_nowait, rules, settings, gate, backend).run(), name="job"
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


class _Work:
    """One job being answered."""

    def __init__(
        self,
        job: Json,
        deliver: Callable[[Output], None],
        rules: Rules,
        settings: Settings,
        gate: Gate,
        backend: Backend,
    ) -> None:
        self._job_id = str(job.get("id"))[:128]
        self._input: Any = job.get("input")
        self._deliver = deliver
        self._rules = rules
        self._raw = settings.raw_openai_output
        self._gate = gate
        self._backend = backend
        self._record = JobStats(id=uuid.uuid4().hex, stats=RequestStats(), log_fields={})
        self._ask: JobRequest | None = None
        self._writer: Writer | None = None
        self._status = 200
        self._ended_by: ServeError | None = None

    async def run(self) -> None:
        token = logs.request_id.set(self._job_id)
        log.info("request started", job=self._job_id)
        try:
            async with self._gate.admit(self._record.id, self._job_id):
                await self._answer()
        except asyncio.CancelledError:
            self._note(ClientGone("The job was stopped."))
            metrics.DISCONNECTS.labels("streaming" if self._streaming else "waiting").inc()
            raise
        except ServeError as error:
            self._fail(error)
        except Exception:  # the outermost loop of a job: whatever it was, its caller is told so
            log.exception("request failed", job=self._job_id)
            self._fail(InternalError("The server failed on this request."))
        finally:
            try:
                if self._writer is not None:
                    self._writer.abandon()
                self._finish()
            finally:
                self._deliver(_END)  # or the job would never end
                logs.request_id.reset(token)

    async def _answer(self) -> None:
        ask = self._ask = read_job(self._input, self._rules)
        self._input = None
        writer = self._writer = Writer(ask.form, ask.growth, self._deliver, raw=self._raw)
        await writer.write(await self._backend.answer(ask, self._record))

    @property
    def _streaming(self) -> bool:
        return self._writer is not None and self._writer.streaming

    def _fail(self, error: ServeError) -> None:
        self._note(error)
        if isinstance(error, Unavailable):
            metrics.REFUSED.labels(error.code or "").inc()
        ask = self._ask
        details = form_of(ask.route if ask else "").body(error, self._record.id)
        details["error"]["status"] = error.status
        if self._writer is not None:
            self._writer.fail(error)
        # The SDK makes the job FAILED by this key, and keeps its value as text.
        self._deliver({"error": json.dumps(details)})

    def _note(self, error: ServeError) -> None:
        self._status, self._ended_by = error.status, error

    def _finish(self) -> None:
        stats, ask, error = self._record.stats, self._ask, self._ended_by
        duration_s = time.perf_counter() - stats.arrived
        route = self._backend.route_label(ask.route) if ask else "unmatched"
        method = ask.method if ask else "POST"
        metrics.REQUESTS.labels(route, method, str(self._status)).inc()
        metrics.DURATION.labels(route).observe(duration_s)
        metrics.record(stats)
        log.info(
            "request finished",
            job=self._job_id,
            path=ask.route[:100] if ask else None,
            status=self._status,
            duration_ms=milliseconds(duration_s),
            **self._record.log_fields,
            **stats.log_fields(
                ended_by=error.code if error else None,
                error=error.message[:300] if error else None,
                form="vllm" if ask and ask.form is OutputForm.VLLM else None,
            ),
        )
