"""An engine that gives its memory back, and takes it again: `POST /sleep`, `/wake_up`.

    awake ── closed ── its requests end ── release ──> asleep ── resume ── open ──> awake
               └ they do not in time: open again, 503

SLEEPING_REQUESTS says what new requests get from the first moment on: 503, or a turn after
`wake_up`. With the first those that the server has when it begins are all answered before; with the
second those that wait for room go on waiting.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine

from app.engine.base import Engine, Memory
from app.errors import InvalidRequest, NotReady, Unavailable
from app.gate import Gate
from app.lifecycle import Lifecycle, Phase
from app.logs.setup import log

_POLL_S = 0.05
_ANSWERS_S = 5.0
_CHANGES_S = 300.0


class Sleep:
    """Of one engine; one change at a time."""

    def __init__(self, lifecycle: Lifecycle, gate: Gate, *, waits: bool, alone: bool) -> None:
        """`waits`: requests wait meanwhile. `alone`: no other process sends the engine requests."""
        self._lifecycle, self._gate = lifecycle, gate
        self._waits, self._alone = waits, alone
        self._changing = asyncio.Lock()
        self._room_closed = False

    async def begin(self, engine: Engine, within_s: float) -> None:
        """Returns once the memory is given back. Raises Unavailable if requests in flight have not
        ended after `within_s`, InvalidRequest if this engine cannot."""
        await _to_the_end(self._begin(self._memory(engine), within_s))

    async def end(self, engine: Engine) -> None:
        """Returns once it serves again."""
        await _to_the_end(self._end(self._memory(engine)))

    def _memory(self, engine: Engine) -> Memory:
        if not self._alone:
            raise InvalidRequest("An engine of several serving processes cannot sleep.")
        if engine.info.serves_adapters:
            raise InvalidRequest("An engine with LoRA adapters cannot sleep.")
        if engine.memory is None:
            raise InvalidRequest("This engine keeps its memory: set ENABLE_MEMORY_SAVER=true.")
        return engine.memory

    async def _begin(self, memory: Memory, within_s: float) -> None:
        async with self._changing:
            if self._lifecycle.asleep:
                return
            began = time.monotonic()
            self._check_ready()
            self._close()
            try:
                await self._emptied(memory, began + within_s)
            except BaseException:  # a cancellation, too, must not leave the server closed
                self._open()
                raise
            self._lifecycle.asleep = True  # or it may be, if this fails: `end` resumes it
            await self._in_time(memory.release())
        log.info("asleep: the engine's memory is given back", seconds=_since(began))

    async def _end(self, memory: Memory) -> None:
        async with self._changing:
            if not self._lifecycle.asleep:
                return
            began = time.monotonic()
            await self._in_time(memory.resume())
            self._lifecycle.asleep = False
            self._open()
        log.info("awake", seconds=_since(began))

    def _check_ready(self) -> None:
        if self._lifecycle.phase is not Phase.READY:
            raise NotReady(f"The server is not ready (phase: {self._lifecycle.phase}).")

    def _close(self) -> None:
        self._lifecycle.closed = True
        self._lifecycle.refuses = not self._waits
        if self._waits:
            self._close_room()

    def _close_room(self) -> None:
        if not self._room_closed:
            self._room_closed = True
            self._gate.sequences.close()

    def _open(self) -> None:
        self._lifecycle.closed = self._lifecycle.refuses = False
        if self._room_closed:
            self._room_closed = False
            self._gate.sequences.open()

    async def _emptied(self, memory: Memory, ends: float) -> None:
        """SGLang's scheduler ends if it is asked for memory that it uses. `ends`: by the monotonic
        clock."""
        gate = self._gate
        while True:
            self._check_ready()  # a server that is told to end serves those that it has
            if self._waits or not gate.in_flight:
                self._close_room()  # a probe has no place
                if not gate.sequences.held and await self._is_idle(memory, ends):
                    self._check_ready()
                    return
            if time.monotonic() >= ends:
                raise Unavailable("Requests are still running; the engine stays awake.")
            await asyncio.sleep(_POLL_S)  # the engine does not say when it has dropped the last

    async def _is_idle(self, memory: Memory, ends: float) -> bool:
        left_s = max(_ANSWERS_S, ends - time.monotonic())
        try:
            return await asyncio.wait_for(memory.is_idle(), left_s)
        except TimeoutError:
            raise Unavailable("The engine does not answer.") from None

    async def _in_time(self, change: Coroutine[None, None, None]) -> None:
        """An engine that does not come back has hung: it owes no request that would show it."""
        try:
            await asyncio.wait_for(change, _CHANGES_S)
        except TimeoutError:
            self._lifecycle.enter(Phase.HUNG, "the engine does not release or resume its memory")
            raise Unavailable("The engine does not answer.") from None


async def _to_the_end(change: Coroutine[None, None, None]) -> None:
    """Run `change` in a task of its own: a cancelled caller must not leave the engine's state
    unknown."""
    task = asyncio.ensure_future(change)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    await asyncio.shield(task)


def _since(began: float) -> float:
    return round(time.monotonic() - began, 2)
