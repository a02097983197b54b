"""An engine that gives its memory back, and takes it again: `POST /sleep`, `/wake_up`.

    awake ── close the room ── its requests end ── release ──> asleep ── resume ── open ──> awake
                  └ they do not in time: open again, 503

Meanwhile a new request gets 503, or waits for room as it would in a full engine
(SLEEPING_REQUESTS).
"""

from __future__ import annotations

import asyncio
import time

from app.engine.base import Engine, Memory
from app.errors import InvalidRequest, ServeError, Unavailable
from app.gate import Gate
from app.lifecycle import Lifecycle
from app.logs.setup import log

_POLL_S = 0.05


class Sleep:
    """Of one engine; one change at a time."""

    def __init__(self, lifecycle: Lifecycle, gate: Gate, *, waits: bool, alone: bool) -> None:
        """`waits`: requests wait meanwhile. `alone`: no other process sends the engine requests."""
        self._lifecycle, self._gate = lifecycle, gate
        self._waits, self._alone = waits, alone
        self._changing = asyncio.Lock()

    async def begin(self, engine: Engine, within_s: float) -> None:
        """Returns once the memory is given back. Raises Unavailable if requests in flight have not
        ended after `within_s`, InvalidRequest if this engine cannot."""
        memory = self._memory(engine)
        async with self._changing:
            if self._lifecycle.asleep:
                return
            began = time.monotonic()
            self._close()
            try:
                await self._emptied(engine, within_s)
                await memory.release()
            except BaseException:
                self._open()
                raise
            self._lifecycle.asleep = True
        log.info("asleep: the engine's memory is given back", seconds=_since(began))

    async def end(self, engine: Engine) -> None:
        """Returns once it serves again."""
        memory = self._memory(engine)
        async with self._changing:
            if not self._lifecycle.asleep:
                return
            began = time.monotonic()
            await memory.resume()
            self._lifecycle.asleep = False
            self._open()
        log.info("awake", seconds=_since(began))

    def _memory(self, engine: Engine) -> Memory:
        if engine.memory is None:
            raise InvalidRequest("This engine keeps its memory: set ENABLE_MEMORY_SAVER=true.")
        if not self._alone:
            raise InvalidRequest("An engine of several serving processes cannot sleep.")
        if engine.info.serves_adapters:
            raise InvalidRequest("An engine with LoRA adapters cannot sleep.")
        return engine.memory

    def _close(self) -> None:
        self._gate.sequences.close()
        if not self._waits:
            self._lifecycle.refuses = _refusal

    def _open(self) -> None:
        self._lifecycle.refuses = None
        self._gate.sequences.open()

    async def _emptied(self, engine: Engine, within_s: float) -> None:
        """SGLang's scheduler ends if it is asked for memory that it uses."""
        ends = time.monotonic() + within_s
        while self._gate.sequences.held or not await engine.flush_cache():
            if time.monotonic() >= ends:
                raise Unavailable(f"Requests are still running after {within_s:g} s.")
            await asyncio.sleep(_POLL_S)  # the engine does not say when it has dropped the last


def _refusal() -> ServeError:
    return Unavailable("The engine is asleep; it serves again after /wake_up.")


def _since(began: float) -> float:
    return round(time.monotonic() - began, 2)
