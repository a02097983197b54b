"""One sample of the server each second, while pages watch it, sent to all of them.

    first watcher ─ task ─┬─ sample ─ every second ─> frame ─┬─> watcher 1
                          │   metrics' files, gauges, load   ├─> watcher 2 ...
    last one leaves ──────┴─ task ends                       └─> None: the server drains

A watcher takes the newest frame when it has sent the last one: one that reads slowly misses some,
and one that does not read has one frame, until WRITE_TIMEOUT cuts it off.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress

import msgspec
import orjson

from app.engine.base import Load
from app.errors import Draining, EngineDied, Overloaded, Unavailable
from app.types import Json
from app.version import version
from app.web.page.figures import Figures
from app.web.state import Serving

INTERVAL_S = 1.0
MOST_WATCHERS = 32
"""Of one process."""
_RECENT_S = 60
"""Percentiles and shares are those of the last minute, if it has any."""
_COUNTED_OVER = 10
"""Readings over which tokens are counted where the engine does not know its rate."""
_GRAPH_SAMPLES = 300
"""What a new watcher gets of the past."""


class Point(msgspec.Struct, frozen=True, array_like=True):
    """One sample, as far as the graphs show it."""

    at_ms: int
    tokens_per_s: float
    in_flight: int
    waiting: int
    """Requests without a place in the engine; what waits inside of it is `queued` of the sample."""
    ttft_s: float | None
    """The mean of this second's."""
    inter_token_s: float | None
    cached: float | None
    used: float | None
    """Share of the KV cache."""


class Sampler:
    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._watchers = 0
        self._task: asyncio.Task[None] | None = None
        self._next: asyncio.Future[bytes | None] | None = None
        self._phase_changed = asyncio.Event()
        serving.lifecycle.listeners.append(lambda _: self._phase_changed.set())
        self._points: deque[Point] = deque(maxlen=_GRAPH_SAMPLES)
        self._readings: deque[tuple[float, Figures]] = deque(maxlen=_RECENT_S + 1)
        """Monotonic time and totals."""

    @property
    def watchers(self) -> int:
        return self._watchers

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Raises Unavailable."""
        lifecycle = self._serving.lifecycle
        refusal = lifecycle.refusal()
        if isinstance(refusal, Draining | EngineDied):
            raise refusal
        if self._watchers >= MOST_WATCHERS:
            raise Overloaded(f"{MOST_WATCHERS} pages watch this server already.")
        self._watchers += 1
        try:
            yield
        finally:
            self._watchers -= 1
            if not self._watchers and self._task is not None:
                self._task.cancel()
                self._task = self._next = None

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events, until the server drains; inside of `watched`."""
        if self._task is None or self._task.done():
            self._next = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._run(), name="page-sampler")
        task = self._task
        yield _event("about", self._about())
        yield _event("past", list(self._points))
        phase = self._serving.lifecycle.phase
        while (following := self._next) is not None:
            # The first of a new sampler comes at once; shielded, since all watchers wait for it.
            frame = await asyncio.shield(following)
            if frame is None:
                break
            if phase is not self._serving.lifecycle.phase:
                phase = self._serving.lifecycle.phase
                yield _event("about", self._about())
            yield frame
        if task.done() and not task.cancelled():
            task.result()  # raise the sampler's error, so that this request fails with it

    async def _run(self) -> None:
        clock = time.monotonic
        due = clock()
        try:
            while True:
                self._phase_changed.clear()
                self._pass_on(_event("sample", await self._sample()), last=False)
                if self._serving.lifecycle.ended or self._is_draining():
                    break
                due = max(due + INTERVAL_S, clock())
                with suppress(TimeoutError):
                    async with asyncio.timeout(due - clock()):
                        await self._phase_changed.wait()
        finally:
            if self._task is asyncio.current_task():  # else another one runs, or none
                self._pass_on(None, last=True)

    def _is_draining(self) -> bool:
        return isinstance(self._serving.lifecycle.refusal(), Draining)

    def _pass_on(self, frame: bytes | None, *, last: bool) -> None:
        waited_for = self._next
        self._next = None if last else asyncio.get_running_loop().create_future()
        if waited_for is not None and not waited_for.done():
            waited_for.set_result(frame)

    async def _sample(self) -> Json:
        serving = self._serving
        lifecycle = serving.lifecycle
        loads = await self._loads() if not lifecycle.ended else []
        figures, errors = await asyncio.to_thread(
            lambda: (Figures.read(), serving.recent_errors.last())
        )
        now = time.monotonic()
        before = self._readings[-1] if self._readings else None
        if before is not None and now - before[0] > 3 * INTERVAL_S:  # no page watched in between
            self._readings.clear()
            before = None
        self._readings.append((now, figures))
        point = self._point(now, before, figures, loads)
        self._points.append(point)
        recent = self._readings[0][1]
        return {
            **self._phase(),
            "point": point,
            "running": sum(load.running for load in loads),
            "queued": sum(load.waiting for load in loads),
            "kv": [sum(load.used_tokens for load in loads), sum(load.max_tokens for load in loads)],
            "lag_s": serving.gauges().lag_s,
            "recent_s": round(now - self._readings[0][0]),
            "ttft": _spreads(figures.ttft.since(recent.ttft).shown(), figures.ttft.shown()),
            "between": _spreads(
                figures.inter_token.since(recent.inter_token).shown(), figures.inter_token.shown()
            ),
            "cached": [figures.share_cached(recent), figures.share_cached(None)],
            "totals": {
                "answered": int(figures.answered),
                "refused": int(figures.refused),
                "failed": int(figures.failed),
                "prompt_tokens": int(figures.prompt_tokens),
                "completion_tokens": int(figures.completion_tokens),
            },
            "errors": errors,
        }

    async def _loads(self) -> list[Load]:
        """Of each replica; none while they are not known."""
        with suppress(Unavailable):  # the engine is asleep, about to end, or does not answer
            return await self._serving.host.loads()
        return []

    def _point(
        self, now: float, before: tuple[float, Figures] | None, figures: Figures, loads: list[Load]
    ) -> Point:
        gauges = self._serving.gauges()
        running = sum(load.running for load in loads)
        past = before[1] if before is not None else figures
        # The engine knows its rate, but not before its first dozens of steps. Tokens are counted
        # when their request ends, so a second has many or none of them.
        engines = sum(load.tokens_per_s for load in loads) if running else 0.0
        back = min(len(self._readings), _COUNTED_OVER if gauges.in_flight else 2)
        since, earlier = self._readings[-back]
        seconds = max(now - since, INTERVAL_S)
        counted = (figures.completion_tokens - earlier.completion_tokens) / seconds
        room = sum(load.max_tokens for load in loads)
        return Point(
            at_ms=round(time.time() * 1e3),
            tokens_per_s=round(engines or counted, 1),
            in_flight=gauges.in_flight,
            waiting=gauges.waiting,
            ttft_s=figures.ttft.since(past.ttft).shown()["mean"],
            inter_token_s=figures.inter_token.since(past.inter_token).shown()["mean"],
            cached=figures.share_cached(past),
            used=sum(load.used_tokens for load in loads) / room if room else None,
        )

    def _phase(self) -> Json:
        lifecycle = self._serving.lifecycle
        return {
            "phase": str(lifecycle.phase),
            "ready": lifecycle.ready,
            "asleep": lifecycle.asleep,
            "reason": lifecycle.reason,
            "uptime_s": round(lifecycle.uptime_s, 1),
            "took_s": lifecycle.took_s,
            "fetched": lifecycle.fetched,
        }

    def _about(self) -> Json:
        """What changes only with the phase."""
        serving, model = self._serving, self._serving.host.model
        about: Json = {
            **self._phase(),
            "engine": serving.settings.engine,
            "names": list(serving.settings.names),
            "region": serving.settings.hathora_region,
            "processes": serving.peers.count if serving.peers is not None else 1,
            "version": version().release,
            "commit": version().commit,
            "sglang": version().sglang,
            "model": None,
        }
        if model is not None:
            info = model.info
            about["model"] = {
                "path": info.model_path,
                "context": model.limit,
                "device": info.device,
                "embeds": info.embeds,
                "pictures": info.takes_pictures,
                "thinks": info.reasoning_parser is not None,
                "adapters": info.serves_adapters,
                "sampling": info.default_sampling,
            }
        return about


def _spreads(recent: Json, ever: Json) -> Json:
    """Of the last minute; of all time, if the minute has nothing."""
    return {**recent, "recent": True} if recent["count"] else {**ever, "recent": False}


def _event(name: str, content: object) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (
        name.encode(),
        orjson.dumps(msgspec.to_builtins(content)),
    )
