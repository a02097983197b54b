"""Files in a bucket: S3 and what speaks as it, Google Cloud Storage, Azure Blob Storage.

    <prefix>/files/<2 digits>/<30 digits>

obstore reads credentials and endpoints where the vendors' own programs do: AWS_..., GOOGLE_...,
AZURE_... in the environment, or the machine's identity. A file of more than one part is uploaded in
parts, which the bucket makes an object at the end; an upload that fails is aborted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

from app.files.storage import StorageFailed, parts
from app.settings.secrets import hidden_start

if TYPE_CHECKING:
    from obstore.store import ClientConfig

T = TypeVar("T")
_PART_BYTES = 5 * 2**20
"""The least that S3 takes; of 10,000 parts a file may have."""
_PARTS_AT_A_TIME = 2
_READ_BYTES = 4 * 2**20
"""A range for each: a client that reads slowly holds no request to the bucket."""
_ABORT_S = 30.0
_ANSWER_S = 60.0
"""For a request that is not the end of an upload."""
_CLIENT: ClientConfig = {
    "connect_timeout": "5s",
    # Of one request, a part at most; but the end of an upload of many parts may take minutes.
    "timeout": "300s",
    # An address without TLS is one that the operator has set (AWS_ENDPOINT_URL).
    "allow_http": True,
}


class Bucket:
    def __init__(self, url: str) -> None:
        self._url = url

    @cached_property
    def store(self) -> ObjectStore:
        """Raises StorageFailed: what else the vendor needs is not there."""
        try:
            return from_url(
                self._url,
                client_options=_CLIENT,
                retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=30)},
            )
        except (BaseError, ValueError) as error:
            raise _failed(error) from None

    def begin(self, id: str) -> ObjectWriting:
        return ObjectWriting(self, _key(id))

    async def read(self, id: str, size: int) -> AsyncGenerator[bytes, None]:
        for start in range(0, size, _READ_BYTES):
            end = min(size, start + _READ_BYTES)
            async with _soon():
                piece = await done(
                    obstore.get_range_async(self.store, _key(id), start=start, end=end)
                )
            if len(piece) != end - start:
                raise StorageFailed("a file is shorter than it was")
            yield bytes(piece)

    async def remove(self, id: str) -> None:
        with suppress(Missing):
            async with _soon():
                await done(obstore.delete_async(self.store, _key(id)))

    async def close(self) -> None:
        pass


class ObjectWriting:
    def __init__(self, bucket: Bucket, key: str) -> None:
        self._bucket, self._key = bucket, key
        self._first = bytearray()
        """A file that is not larger is one request."""
        self._rest: asyncio.Queue[bytes | _Abandoned | None] = asyncio.Queue(1)
        self._sending: asyncio.Future[Any] | None = None

    async def write(self, data: bytes) -> None:
        if self._sending is None:
            self._first += data
            if len(self._first) < _PART_BYTES:
                return
            data = bytes(self._first)
            self._first.clear()
            self._sending = asyncio.ensure_future(
                done(
                    obstore.put_async(
                        self._bucket.store,
                        self._key,
                        self._pieces(),
                        chunk_size=_PART_BYTES,
                        max_concurrency=_PARTS_AT_A_TIME,
                    )
                )
            )
        await self._put(data)

    async def finish(self) -> None:
        if self._sending is None:
            whole = bytes(self._first)
            self._sending = asyncio.ensure_future(
                done(obstore.put_async(self._bucket.store, self._key, whole, use_multipart=False))
            )
        else:
            await self._put(None)
        await asyncio.shield(self._sending)

    async def abandon(self) -> None:
        if self._sending is not None:
            while not self._rest.empty():
                self._rest.get_nowait()
            self._rest.put_nowait(_Abandoned())
            await asyncio.wait({self._sending}, timeout=_ABORT_S)
            if not self._sending.done():
                self._sending.cancel()
            elif not self._sending.cancelled():
                self._sending.exception()  # how it has ended does not matter any more
        with suppress(Missing):
            async with _soon():
                await done(obstore.delete_async(self._bucket.store, self._key))

    async def _put(self, data: bytes | None) -> None:
        assert self._sending is not None
        putting = asyncio.ensure_future(self._rest.put(data))
        try:
            await asyncio.wait({putting, self._sending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            putting.cancel()
        if self._sending.done():
            self._sending.result()
            raise StorageFailed("an upload has ended before its file")

    async def _pieces(self) -> AsyncIterator[bytes]:
        while (piece := await self._rest.get()) is not None:
            if isinstance(piece, _Abandoned):
                raise piece  # obstore aborts the upload then, and only then
            yield piece


class Missing(StorageFailed):
    """There is no such object, bucket or upload."""


@asynccontextmanager
async def _soon() -> AsyncIterator[None]:
    """Raises StorageFailed if it takes too long."""
    try:
        async with asyncio.timeout(_ANSWER_S):
            yield
    except TimeoutError:
        raise StorageFailed(f"the bucket did not answer within {_ANSWER_S:g} s") from None


class _Abandoned(Exception):
    """The upload is not wanted any more."""


async def done(call: Awaitable[T]) -> T:
    """Raises StorageFailed."""
    try:
        return await call
    except FileNotFoundError as error:
        raise Missing(str(_failed(error))) from None
    except (BaseError, OSError, ValueError) as error:
        raise _failed(error) from None


def _failed(error: Exception) -> StorageFailed:
    """An error of obstore's begins with a line for people, which may have a signed URL in it."""
    first = (str(error).splitlines() or [""])[0]
    return StorageFailed(f"{type(error).__name__}: {hidden_start(first, 300)}"[:300])


def _key(id: str) -> str:
    return "/".join(("files", *parts(id)))
