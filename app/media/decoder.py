"""Decodes pictures in processes that may be killed: this server's end. worker.py is the other."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec

from app.errors import InvalidRequest
from app.media.messages import Look, Seen, Setup
from app.media.picture import Bounds, Decoded
from app.trials.process import TrialProcess

T = TypeVar("T")
_CPU_S = 0.2
"""Of any picture, and beside that:"""
_CPU_S_PER_BYTE, _CPU_S_PER_PIXEL = 5e-8, 2e-7
"""A WEBP of 16 megapixels takes 0.8 s."""


class _Slot:
    """A process, and the two files that it shares with this one."""

    def __init__(self, bounds: Bounds) -> None:
        self.encoded, self.pixels = (os.memfd_create(name) for name in ("encoded", "pixels"))
        setup = msgspec.json.encode(Setup(bounds, self.encoded, self.pixels))
        fds = (self.encoded, self.pixels)
        self.process = TrialProcess(
            "app.media.worker", setup, tries="pictures", pass_fds=fds, restarts=False
        )

    def write(self, data: bytes) -> None:
        os.truncate(self.encoded, 0)
        written, view = 0, memoryview(data)
        while written < len(view):
            written += os.pwrite(self.encoded, view[written:], written)

    def read(self, size: int) -> bytes:
        return os.pread(self.pixels, size, 0)

    def empty(self) -> None:
        """Pictures take no memory between requests."""
        os.truncate(self.encoded, 0)
        os.truncate(self.pixels, 0)

    async def close(self) -> None:
        await self.process.close()
        os.close(self.encoded)
        os.close(self.pixels)


class Decoder:
    """What has begun is done, though its request has ended: to start a process takes longer."""

    def __init__(self, bounds: Bounds, *, processes: int) -> None:
        self._bounds = bounds
        self._slots = {_Slot(bounds) for _ in range(processes)}
        self._idle: asyncio.LifoQueue[_Slot] = asyncio.LifoQueue()
        for slot in self._slots:
            self._idle.put_nowait(slot)
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="pictures")
        self._tasks: set[asyncio.Task[Any]] = set()

    def warm_up(self) -> None:
        next(iter(self._slots)).process.start()

    async def measure(self, data: bytes, *, param: str) -> tuple[int, int]:
        """Width and height, as it will be seen. Raises InvalidRequest, Unavailable."""

        async def measured(slot: _Slot) -> tuple[int, int]:
            await self._in_thread(lambda: slot.write(data))
            seen = await _look(slot, Look(len(data)), self._cpu_s(data), param)
            return seen.width, seen.height

        return await self._with_slot(measured)

    async def decode(self, data: bytes, *, longest: int | None, param: str) -> Decoded:
        """As `decode.decode`. Raises InvalidRequest, Unavailable."""

        async def decoded(slot: _Slot) -> Decoded:
            await self._in_thread(lambda: slot.write(data))
            look = Look(len(data), True, longest)
            cpu_s = self._cpu_s(data) + self._bounds.max_pixels * _CPU_S_PER_PIXEL
            seen = await _look(slot, look, cpu_s, param)
            size = seen.width * seen.height * 3
            return Decoded(seen.width, seen.height, await self._in_thread(lambda: slot.read(size)))

        return await self._with_slot(decoded)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*[slot.close() for slot in self._slots])
        self._threads.shutdown(wait=False)

    async def _with_slot(self, work: Callable[[_Slot], Coroutine[Any, Any, T]]) -> T:
        slot = await self._idle.get()
        task = asyncio.create_task(self._in_slot(slot, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise

    async def _in_slot(self, slot: _Slot, work: Callable[[_Slot], Coroutine[Any, Any, T]]) -> T:
        try:
            result = await work(slot)
            slot.empty()
        except InvalidRequest:
            slot.empty()
            raise
        except BaseException:
            # Its process may still have its files: no other picture comes there.
            self._slots.discard(slot)
            await slot.close()
            slot = _Slot(self._bounds)
            self._slots.add(slot)
            raise
        finally:
            self._idle.put_nowait(slot)
        return result

    @staticmethod
    def _cpu_s(data: bytes) -> float:
        return _CPU_S + len(data) * _CPU_S_PER_BYTE

    async def _in_thread(self, do: Callable[[], T]) -> T:
        """It is over when this returns or raises: the file is the next one's then."""
        doing = asyncio.get_running_loop().run_in_executor(self._threads, do)
        try:
            return await asyncio.shield(doing)
        finally:
            await asyncio.wait({doing})


async def _look(slot: _Slot, look: Look, cpu_s: float, param: str) -> Seen:
    outcome = await slot.process.run(msgspec.json.encode(look), cpu_s=cpu_s)
    if not outcome.output:
        how = "takes too long to decode" if outcome.too_slow else "cannot be decoded"
        seen = Seen("image_parse_error", how)
    else:
        seen = msgspec.json.decode(outcome.output, type=Seen)
    if seen.code is not None:
        raise InvalidRequest(
            f"Invalid value for '{param}': the picture {seen.reason}.", param=param, code=seen.code
        )
    return seen
