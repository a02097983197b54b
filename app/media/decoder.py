"""Decodes pictures in processes that may be killed: this server's end. worker.py is the other."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec

from app.errors import InvalidRequest
from app.media.messages import Look, Seen, Setup
from app.media.picture import Bounds, Decoded
from app.trials.process import TrialProcess

T = TypeVar("T")
_MEASURE_CPU_S = 0.1
_DECODE_CPU_S = 3.0
"""Of the largest picture, a WEBP of 16 megapixels, it takes 0.8 s."""


class _Slot:
    """A process, and the two files that it shares with this one."""

    def __init__(self, bounds: Bounds) -> None:
        self.encoded, self.pixels = (os.memfd_create(name) for name in ("encoded", "pixels"))
        setup = msgspec.json.encode(Setup(bounds, self.encoded, self.pixels))
        fds = (self.encoded, self.pixels)
        self.process = TrialProcess("app.media.worker", setup, tries="pictures", pass_fds=fds)

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
    def __init__(self, bounds: Bounds, *, processes: int) -> None:
        self._slots = [_Slot(bounds) for _ in range(processes)]
        self._idle: asyncio.LifoQueue[_Slot] = asyncio.LifoQueue()
        for slot in self._slots:
            self._idle.put_nowait(slot)
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="pictures")

    def warm_up(self) -> None:
        self._slots[-1].process.start()

    async def measure(self, data: bytes, *, param: str) -> tuple[int, int]:
        """Width and height, as it will be seen. Raises InvalidRequest, Unavailable."""
        async with self._slot() as slot:
            await self._in_thread(lambda: slot.write(data))
            seen = await _look(slot, Look(len(data)), _MEASURE_CPU_S, param)
        return seen.width, seen.height

    async def decode(self, data: bytes, *, longest: int | None, param: str) -> Decoded:
        """As `decode.decode`. Raises InvalidRequest, Unavailable."""
        async with self._slot() as slot:
            await self._in_thread(lambda: slot.write(data))
            seen = await _look(slot, Look(len(data), True, longest), _DECODE_CPU_S, param)
            size = seen.width * seen.height * 3
            pixels = await self._in_thread(lambda: slot.read(size))
        return Decoded(seen.width, seen.height, pixels, bytes.fromhex(seen.identity))

    async def close(self) -> None:
        await asyncio.gather(*[slot.close() for slot in self._slots])
        self._threads.shutdown(wait=False)

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[_Slot]:
        slot = await self._idle.get()
        try:
            yield slot
        finally:
            slot.empty()
            self._idle.put_nowait(slot)

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
