"""The pictures of a request: fetched, measured, checked as a whole, decoded.

sources ─ files ─ sizes ─ (do their tokens fit?) ─ room for their pixels ─ decoded
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from app.media import sources
from app.media.decoder import Decoder
from app.media.picture import Bounds, Decoded
from app.settings.catalogue import Settings
from app.types import Picture

if TYPE_CHECKING:
    from app.media.fetch import Fetcher

T = TypeVar("T")
_FETCHES = 32
"""Files at a time, until they are decoded."""
_LOW_DETAIL = 512
"""Pixels of the longest side."""


class Pictures:
    """Those of one process."""

    def __init__(self, settings: Settings) -> None:
        bounds = Bounds(
            max_pixels=settings.media_max_pixels,
            min_side=settings.media_min_side,
            max_ratio=settings.media_max_ratio,
        )
        self._max_bytes = settings.media_max_bytes
        self._decoder = Decoder(bounds, processes=settings.media_processes)
        self._fetcher: Fetcher | None = None
        if settings.media_hosts:
            from app.media.fetch import Fetcher  # HTTP clients take a tenth of a second to import

            self._fetcher = Fetcher(
                hosts=settings.media_hosts,
                plain_http=settings.media_http,
                max_bytes=settings.media_max_bytes,
                timeout_s=settings.media_fetch_timeout_s,
            )
        self._fetched = _Room(_FETCHES)
        self._room = _Room(settings.media_max_pixels_in_flight)

    def warm_up(self) -> None:
        """Start a process, which takes a moment, before it is needed."""
        self._decoder.warm_up()

    async def close(self) -> None:
        await self._decoder.close()
        if self._fetcher is not None:
            await self._fetcher.close()

    async def decoded(
        self,
        pictures: Sequence[Picture],
        check: Callable[[list[tuple[int, int]]], None],
        hold: AsyncExitStack,
    ) -> list[Decoded]:
        """The pictures, in their order; their pixels count as long as `hold` is open.

        `check` gets the widths and heights, before anything is decoded. Raises ServeError.
        """
        for picture in pictures:
            sources.check(picture, max_bytes=self._max_bytes, fetches=self._fetcher is not None)
        # An agent sends the same picture in several messages.
        once = {(each.url, each.detail): each for each in reversed(pictures)}
        places = {key: no for no, key in enumerate(once)}
        ways = [places[each.url, each.detail] for each in pictures]
        remote = sum(not each.url.startswith("data:") for each in once.values())
        async with self._fetched.of(remote):
            files = await _all(self._file(each) for each in once.values())
            each_size = await _all(
                self._decoder.measure(file, param=each.param)
                for each, file in zip(once.values(), files, strict=True)
            )
            sizes = [
                _reduced(size, each) for each, size in zip(once.values(), each_size, strict=True)
            ]
            check([sizes[way] for way in ways])
            pixels = sum(sizes[way][0] * sizes[way][1] for way in ways)
            await hold.enter_async_context(self._room.of(pixels))
            found = await _all(
                self._decoder.decode(file, longest=_longest(each), param=each.param)
                for each, file in zip(once.values(), files, strict=True)
            )
            del files
        return [found[way] for way in ways]

    async def _file(self, picture: Picture) -> bytes:
        if picture.url.startswith("data:"):
            return await asyncio.to_thread(sources.file_of, picture, max_bytes=self._max_bytes)
        assert self._fetcher is not None
        return await sources.fetched(picture, self._fetcher)


class _Room:
    """For so many at a time; in the order of arrival. One request always fits."""

    def __init__(self, most: int) -> None:
        self._most = self._free = most
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def of(self, count: int) -> AsyncIterator[None]:
        count = min(count, self._most)
        async with self._turn:
            while self._free < count:
                self._freed.clear()
                await self._freed.wait()
            self._free -= count
        try:
            yield
        finally:
            self._free += count
            self._freed.set()


def _longest(picture: Picture) -> int | None:
    return _LOW_DETAIL if picture.detail == "low" else None


def _reduced(size: tuple[int, int], picture: Picture) -> tuple[int, int]:
    """As Pillow's `thumbnail` does."""
    longest = _longest(picture)
    if longest is None or max(size) <= longest:
        return size
    scale = longest / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


async def _all(work: Iterable[Awaitable[T]]) -> list[T]:
    """The results in order; the first error ends the others, and is raised."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
