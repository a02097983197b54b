"""Files in a folder of this machine, or of a network's file system.

    arriving/<32 digits>        while it is written
    <2 digits>/<30 digits>      whole: synced, then renamed, then the folder synced

The disk is waited for in threads of its own: a slow one must not hold up what else needs threads.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from app.files.storage import PIECE_BYTES, StorageFailed, parts

T = TypeVar("T")
_THREADS = 8
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_OLD = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW


class Folder:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="files")

    def begin(self, id: str) -> FileWriting:
        return FileWriting(self, id)

    async def read(self, id: str, size: int) -> AsyncGenerator[bytes, None]:
        file = _Reading(self.place(id))
        try:
            left = size
            while left:
                piece = await self.do(file.read, min(left, PIECE_BYTES))
                if not piece:
                    raise StorageFailed("a file is shorter than it was")
                left -= len(piece)
                yield piece
        finally:
            self._threads.submit(file.close)

    async def remove(self, id: str) -> None:
        await self.do(self._remove, id)

    async def close(self) -> None:
        self._threads.shutdown(wait=False)

    def place(self, id: str) -> Path:
        folder, name = parts(id)
        return self._root / folder / name

    def arriving(self, id: str) -> Path:
        return self._root / "arriving" / "".join(parts(id))

    async def do(self, call: Callable[..., T], *arguments: object) -> T:
        """In a thread, to its end whatever becomes of the caller. Raises StorageFailed."""
        loop = asyncio.get_running_loop()
        try:
            return await asyncio.shield(loop.run_in_executor(self._threads, call, *arguments))
        except OSError as error:
            raise StorageFailed(f"{type(error).__name__}: {error.strerror}") from None

    def _remove(self, id: str) -> None:
        for path in (self.arriving(id), self.place(id)):
            with suppress(FileNotFoundError):
                path.unlink()


class _Reading:
    """A file that is read in threads. One at a time has it: a read whose caller has left may still
    go on when it is closed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._turn = threading.Lock()

    def read(self, size: int) -> bytes:
        with self._turn:
            if self._file is None:
                self._file = os.open(self._path, _OLD)
            return os.read(self._file, size)

    def close(self) -> None:
        with self._turn:
            if self._file is not None:
                os.close(self._file)


class FileWriting:
    def __init__(self, folder: Folder, id: str) -> None:
        self._folder, self._id = folder, id
        self._file: int | None = None
        self._turn = asyncio.Lock()
        """A write whose caller has left goes on to its end."""

    async def write(self, data: bytes) -> None:
        await self._do(self._write, data)

    async def finish(self) -> None:
        await self._do(self._finish)

    async def abandon(self) -> None:
        await self._do(self._abandon)

    async def _do(self, call: Callable[..., None], *arguments: object) -> None:
        await asyncio.shield(asyncio.ensure_future(self._in_turn(call, *arguments)))

    async def _in_turn(self, call: Callable[..., None], *arguments: object) -> None:
        async with self._turn:
            await self._folder.do(call, *arguments)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        file = self._opened()
        while view:
            view = view[os.write(file, view) :]

    def _opened(self) -> int:
        if self._file is None:
            path = self._folder.arriving(self._id)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(path, _NEW, 0o600)
        return self._file

    def _finish(self) -> None:
        file = self._opened()
        os.fsync(file)
        self._close()
        arriving, place = self._folder.arriving(self._id), self._folder.place(self._id)
        if not place.parent.exists():
            place.parent.mkdir(mode=0o700, exist_ok=True)
            _sync(place.parent.parent)
        arriving.rename(place)
        _sync(place.parent)

    def _abandon(self) -> None:
        self._close()
        self._folder._remove(self._id)

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


def _sync(folder: Path) -> None:
    """Let the names in it survive a loss of power."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
