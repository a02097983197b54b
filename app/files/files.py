"""Files that clients upload: bounded, and each owner's own.

    upload ── write, write, ... ── keep       nothing is left of one that is not kept
    find ─ page ─ read ─ remove

Which files there are is told by rows of a database (store/file_rows.py), what they hold is in a
folder or a bucket (storage.py). A row is there before its content and outlives it; between the two
an upload has a claim, which its server renews. So several servers may share both, whatever is left
by a server that dies is known by its row, and content of others is never touched.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from app import metrics
from app.errors import BodyTooLarge, InvalidRequest, Overloaded, StoreUnavailable
from app.files.storage import PIECE_BYTES, Storage, StorageFailed, Writing
from app.files.upkeep import CLAIM_S, FileCare
from app.store.access import Access
from app.store.records import FileLimits, FilePage, NoRoom, StoredFile, is_id

if TYPE_CHECKING:
    from app.store.file_rows import Rows

T = TypeVar("T")
_RESERVED = (2**20, 64 * 2**20)
"""Bytes that an upload has set aside for it at a time: the first, and the most."""
_END_S = 8.0
_SETTINGS = {
    "most_files": "FILE_MAX_COUNT",
    "most_owner_bytes": "FILE_MAX_KEY_BYTES",
    "most_bytes": "FILE_MAX_TOTAL_BYTES",
}


class Files:
    """Those of one server. Its calls raise StoreUnavailable."""

    def __init__(
        self,
        url: str,
        storage: Storage,
        limits: FileLimits,
        *,
        most_file_bytes: int,
        most_uploads: int,
        ttl_s: float | None,
    ) -> None:
        """`url`: of the database with the rows."""
        self._access: Access[Rows] = Access(
            url,
            module="app.store.file_rows",
            name="the store of files",
            failures=metrics.FILE_FAILURES,
        )
        self._care = FileCare(self._access, storage)
        self._storage = storage
        self.limits = limits
        self.most_file_bytes = most_file_bytes
        self._most_uploads = most_uploads
        self.ttl_s = ttl_s
        self._task: asyncio.Task[None] | None = None
        self._removing: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        if self._removing:
            await asyncio.wait(self._removing, timeout=_END_S)
        await self._access.settled()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=_END_S)
        await self._access.close()
        await self._storage.close()

    # -- uploads ---------------------------------------------------------------------------------

    @asynccontextmanager
    async def upload(self, owner: str) -> AsyncIterator[Upload]:
        """A file that arrives. What its context does not keep is gone.

        Raises Overloaded, InvalidRequest.
        """
        if len(self._care.uploads) >= self._most_uploads:
            raise Overloaded(
                f"This server receives {self._most_uploads} uploads (FILE_MAX_UPLOADS) already."
            )
        id = f"file-{os.urandom(16).hex()}"
        self._care.uploads.add(id)
        upload = Upload(self, owner, id, self._storage.begin(id))
        try:
            await self._room(lambda rows: rows.begin(owner, id, self.limits, CLAIM_S))
            yield upload
        finally:
            self._care.uploads.discard(id)
            if not upload.kept:
                metrics.FILES.labels("abandoned").inc()
                self._later(self._abandon(upload))

    async def reserve(self, owner: str, id: str, size: int, wished: int) -> int:
        """Of an upload; returns the bytes that it may have until it asks again."""
        return await self._room(lambda rows: rows.grow(owner, id, size, wished, self.limits))

    async def keep(self, file: StoredFile) -> bool:
        return await self._call("put", lambda rows: rows.keep(file))

    async def _room(self, use: Callable[[Rows], Awaitable[T]]) -> T:
        try:
            return await self._call("put", use)
        except NoRoom as error:
            most = getattr(self.limits, error.limit)
            of = "all files" if error.limit == "most_bytes" else "the files of an API key"
            unit = "files" if error.limit == "most_files" else "bytes"
            raise InvalidRequest(
                f"There is no room for this file: {of} may be {most} {unit} together "
                f"({_SETTINGS[error.limit]}). Please delete some.",
                param="file",
                code="file_quota_exceeded",
            ) from None

    # -- files -----------------------------------------------------------------------------------

    async def find(self, owner: str, id: str) -> StoredFile | None:
        if not is_id(id):
            return None
        return await self._call("get", lambda rows: rows.find(owner, id))

    async def page(
        self, owner: str, *, after: str | None, limit: int, newest_first: bool, purpose: str | None
    ) -> FilePage | None:
        """None: the file `after` is not there."""
        if after is not None and not is_id(after):
            return None
        return await self._call(
            "get",
            lambda rows: rows.page(
                owner, after=after, limit=limit, newest_first=newest_first, purpose=purpose
            ),
        )

    async def remove(self, owner: str, id: str) -> bool:
        """It is not there any more; its content is removed soon."""
        if not is_id(id):
            return False
        removed = await self._call("remove", lambda rows: rows.remove(owner, id, CLAIM_S))
        if removed:
            metrics.FILES.labels("deleted").inc()
            self._later(self._discard(id))
        return removed

    async def read(self, file: StoredFile) -> AsyncGenerator[bytes, None]:
        """Its content in pieces."""
        try:
            async with aclosing(self._storage.read(file.id, file.size)) as pieces:
                async for piece in pieces:
                    metrics.FILE_BYTES.labels("out").inc(len(piece))
                    yield piece
        except StorageFailed as error:
            raise self.failed("read", str(error)) from None

    async def content(self, file: StoredFile) -> bytes:
        """All of it: its size is to be checked before."""
        async with aclosing(self.read(file)) as pieces:
            return b"".join([piece async for piece in pieces])

    def failed(self, what: str, why: str) -> StoreUnavailable:
        return self._access.failed(what, why)

    # -- in the background -----------------------------------------------------------------------

    async def _abandon(self, upload: Upload) -> None:
        id = upload.id
        await self._call("remove", lambda rows: rows.give_up(id, CLAIM_S))
        await upload.abandon()
        await self._call("remove", lambda rows: rows.drop([id]))

    async def _discard(self, id: str) -> None:
        await self._storage.remove(id)
        await self._call("remove", lambda rows: rows.drop([id]))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        """Its client does not wait for it. If it fails, the upkeep finds the row."""

        async def tried() -> None:
            try:
                await work
            except StorageFailed as error:
                self.failed("remove", str(error))
            except StoreUnavailable:
                pass  # is in the log

        task = asyncio.create_task(tried())
        self._removing.add(task)
        task.add_done_callback(self._removing.discard)

    async def _call(self, what: str, use: Callable[[Rows], Awaitable[T]]) -> T:
        self._start()
        return await self._access.call(what, use)

    def _start(self) -> None:
        """Begin to open the database. Idempotent."""
        if self._task is None:
            self._task = asyncio.create_task(self._care.take(), name="files")

    async def tried(self) -> None:
        """Returns once the first attempt to open the database has ended, well or not."""
        self._start()
        await self._access.tried()


class Upload:
    """One file while it arrives."""

    def __init__(self, files: Files, owner: str, id: str, writing: Writing) -> None:
        self._files, self._owner, self.id = files, owner, id
        self._writing = writing
        self._buffer = bytearray()
        self._reserved = 0
        self.size = 0
        """Bytes so far."""
        self.kept = False

    async def write(self, data: bytes) -> None:
        """Raises BodyTooLarge, InvalidRequest, StoreUnavailable."""
        self.size += len(data)
        most = self._files.most_file_bytes
        if self.size > most:
            raise BodyTooLarge(f"The file is over {most} bytes (FILE_MAX_BYTES).")
        if self.size > self._reserved:
            least, steps_to = _RESERVED
            wished = min(most, self.size + min(steps_to, max(least, self._reserved)))
            self._reserved = await self._files.reserve(self._owner, self.id, self.size, wished)
        self._buffer += data
        if len(self._buffer) >= PIECE_BYTES:
            await self._flush()

    async def keep(self, *, filename: str, purpose: str, lasts_s: float | None) -> StoredFile:
        """It is complete: once this returns it is kept. `lasts_s`: as the client asks."""
        await self._flush()
        try:
            await self._writing.finish()
        except StorageFailed as error:
            raise self._files.failed("put", str(error)) from None
        now = time.time()
        lasting = [each for each in (lasts_s, self._files.ttl_s) if each is not None]
        file = StoredFile(
            id=self.id,
            created=now,
            expires=now + min(lasting) if lasting else None,
            purpose=purpose,
            filename=filename,
            size=self.size,
        )
        if not await self._files.keep(file):
            raise self._files.failed("put", "an upload was taken for dead")
        self.kept = True
        metrics.FILES.labels("uploaded").inc()
        return file

    async def abandon(self) -> None:
        """Raises StorageFailed."""
        await self._writing.abandon()

    async def _flush(self) -> None:
        data = bytes(self._buffer)
        self._buffer.clear()
        metrics.FILE_BYTES.labels("in").inc(len(data))
        try:
            await self._writing.write(data)
        except StorageFailed as error:
            raise self._files.failed("put", str(error)) from None
