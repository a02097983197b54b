"""Content in a folder and in a bucket: whole or not at all, and no name of a client's."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio

from app.files.bucket import Bucket, done
from app.files.folder import Folder
from app.files.storage import Storage, StorageFailed, folder_of
from tests.support import bucket
from tests.support.serving import eventually

ID = "file-" + "0123456789abcdef" * 2
SIZES = [0, 1, 2**20, 5 * 2**20, 13 * 2**20 + 1]


@pytest_asyncio.fixture
async def storage(path: str) -> AsyncIterator[Storage]:
    folder = folder_of(path)
    opened: Storage = Bucket(path) if folder is None else Folder(folder)
    yield opened
    await opened.close()


async def _written(storage: Storage, content: bytes) -> None:
    writing = storage.begin(ID)
    for at in range(0, len(content), 2**20):
        await writing.write(content[at : at + 2**20])
    await writing.finish()


@pytest.mark.parametrize("size", SIZES)
async def test_what_was_written_is_read_in_bounded_pieces_and_removed(
    storage: Storage, contents: Callable[[], list[str]], size: int
) -> None:
    content = os.urandom(size)
    await _written(storage, content)
    pieces = [piece async for piece in storage.read(ID, size)]
    assert b"".join(pieces) == content
    assert max(map(len, pieces), default=0) <= 4 * 2**20
    await storage.remove(ID)
    assert contents() == []
    await storage.remove(ID)  # what another server has removed


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("finished", [False, True])
async def test_of_what_is_abandoned_nothing_is_left(
    storage: Storage, contents: Callable[[], list[str]], size: int, finished: bool
) -> None:
    writing = storage.begin(ID)
    for _ in range(size // 2**20):
        await writing.write(b"x" * 2**20)
    if finished:
        await writing.finish()
    await writing.abandon()
    await eventually(lambda: contents() == [])


async def test_a_write_that_is_cancelled_leaves_nothing_either(
    storage: Storage, contents: Callable[[], list[str]]
) -> None:
    for delay_s in (0, 0.0005, 0.002, 0.01):
        writing = storage.begin(ID)

        async def write_all() -> None:
            for _ in range(12):
                await writing.write(b"x" * 2**20)  # noqa: B023
            await writing.finish()  # noqa: B023

        task = asyncio.create_task(write_all())
        await asyncio.sleep(delay_s)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await writing.abandon()
        await eventually(lambda: contents() == [])


async def test_nothing_is_there_before_it_is_whole(storage: Storage) -> None:
    writing = storage.begin(ID)
    for _ in range(7):
        await writing.write(b"x" * 2**20)
    with pytest.raises(StorageFailed):
        async for _ in storage.read(ID, 2**20):
            pass
    await writing.abandon()


async def test_a_reader_may_leave_at_any_moment(storage: Storage) -> None:
    await _written(storage, b"x" * 13 * 2**20)
    pieces = storage.read(ID, 13 * 2**20)
    await anext(pieces)
    await pieces.aclose()


@pytest.mark.parametrize(
    "id", ["", "x", "file-", "../etc", "file-" + "/" * 32, ID + "/..", ID.upper()]
)
def test_only_our_own_ids_are_names(tmp_path: Path, id: str) -> None:
    with pytest.raises(AssertionError):
        Folder(tmp_path).place(id)


async def test_files_are_for_the_servers_user_alone(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "files")
    await _written(folder, b"x")
    place = folder.place(ID)
    assert place.stat().st_mode & 0o777 == 0o600
    assert place.parent.stat().st_mode & 0o777 == 0o700
    await folder.close()


async def test_a_folder_that_cannot_be_written_says_so_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "files").write_text("a file")
    with pytest.raises(StorageFailed) as caught:
        await Folder(tmp_path / "files").begin(ID).write(b"x")
    assert str(tmp_path) not in str(caught.value)


async def test_an_error_of_a_bucket_shows_no_secrets(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in bucket.environment(endpoint).items():
        monkeypatch.setenv(name, value)
    writing = Bucket("s3://missing/x").begin(ID)
    await writing.write(b"x")
    with pytest.raises(StorageFailed) as caught:
        await writing.finish()
    assert bucket.SECRET not in str(caught.value)


async def test_a_long_error_of_a_bucket_is_cut_before_and_after_its_secrets_are_hidden() -> None:
    async def failing() -> None:
        raise ValueError(
            f"at http://u:{'p' * 3900}@h/ and {'x' * 80} http://u:SECRET{'p' * 10**6}@h"
        )

    with pytest.raises(StorageFailed) as caught:
        await done(failing())
    assert str(caught.value) == f"ValueError: at http://***@h/ and {'x' * 80}"


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("sglang_storage", "sglang_storage"), ("/data/x", "/data/x"),
        ("file:///data/a%20b", "/data/a b"), ("s3://bucket/x", None), ("az://c", None),
    ],
)  # fmt: skip
def test_a_path_is_a_folder_unless_it_is_a_buckets_url(path: str, folder: str | None) -> None:
    assert folder_of(path) == (None if folder is None else Path(folder))
