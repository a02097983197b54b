"""Files within their bounds, each owner's own, for several servers at once."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio

from app.errors import BodyTooLarge, InvalidRequest, Overloaded, StoreUnavailable
from app.files import files as files_module
from app.files import upkeep
from app.files.bucket import Bucket
from app.files.files import Files
from app.files.folder import Folder
from app.files.storage import Storage, folder_of
from app.store.records import FileLimits, StoredFile
from tests.support.serving import eventually

Opening = Callable[..., Files]
MB = 2**20


@pytest_asyncio.fixture
async def open_files(path: str, store_url: str) -> AsyncIterator[Opening]:
    """Opens the same files, as several servers do."""
    async with AsyncExitStack() as stack:

        def opened(**options: Any) -> Files:
            folder = folder_of(path)
            storage: Storage = Bucket(path) if folder is None else Folder(folder)
            limits = {"most_files": 100, "most_owner_bytes": 10**9, "most_bytes": 10**12}
            own = {name: options.pop(name) for name in [*limits] if name in options}
            defaults = {"most_file_bytes": 64 * MB, "most_uploads": 16, "ttl_s": None}
            files = Files(store_url, storage, FileLimits(**(limits | own)), **(defaults | options))
            stack.push_async_callback(files.close)
            return files

        yield opened


async def put(files: Files, owner: str, content: bytes = b"hello", **fields: Any) -> StoredFile:
    async with files.upload(owner) as upload:
        for at in range(0, len(content), 65_536):
            await upload.write(content[at : at + 65_536])
        return await upload.keep(
            **({"filename": "a.txt", "purpose": "user_data", "lasts_s": None} | fields)
        )


async def names(files: Files, owner: str, **options: Any) -> list[str]:
    page = await files.page(
        owner, **({"after": None, "limit": 100, "newest_first": True, "purpose": None} | options)
    )
    assert page is not None
    return [file.filename for file in page.files]


async def test_a_file_is_found_read_listed_and_removed(
    open_files: Opening, owner: str, contents: Callable[[], list[str]]
) -> None:
    files, content = open_files(), os.urandom(3 * MB + 7)
    file = await put(files, owner, content)
    assert await files.find(owner, file.id) == file
    assert file.size == len(content)
    assert await files.content(file) == content
    assert await names(files, owner) == ["a.txt"]
    assert await files.remove(owner, file.id)
    assert await files.find(owner, file.id) is None
    assert await names(files, owner) == []
    assert not await files.remove(owner, file.id)
    await eventually(lambda: contents() == [])


async def test_another_owner_neither_sees_nor_removes_a_file(
    open_files: Opening, owner: str
) -> None:
    files = open_files()
    file = await put(files, owner)
    for other in ("", "other"):
        assert await files.find(other, file.id) is None
        assert not await files.remove(other, file.id)
        assert "a.txt" not in await names(files, other)
        options = {"limit": 1, "newest_first": True, "purpose": None}
        assert await files.page(other, after=file.id, **options) is None
    assert await files.find(owner, file.id) == file


async def test_another_server_serves_the_same_files(open_files: Opening, owner: str) -> None:
    one, other = open_files(), open_files()
    file = await put(one, owner, b"shared")
    assert await other.find(owner, file.id) == file
    assert await other.content(file) == b"shared"
    assert await other.remove(owner, file.id)
    assert await one.find(owner, file.id) is None


async def test_pages_follow_each_other_both_ways(open_files: Opening, owner: str) -> None:
    files = open_files()
    for no in range(7):
        await put(files, owner, filename=str(no), purpose="batch" if no % 2 else "evals")
    for newest_first in (True, False):
        seen: list[str] = []
        after, more = None, True
        while more:
            page = await files.page(
                owner, after=after, limit=3, newest_first=newest_first, purpose=None
            )
            assert page is not None
            seen += [file.filename for file in page.files]
            after, more = page.files[-1].id, page.more
        ordered = sorted("0123456", reverse=newest_first)
        assert seen == ordered
    assert await names(files, owner, purpose="batch") == ["5", "3", "1"]


@pytest.mark.parametrize("way", ["broken off", "too large", "cancelled"])
async def test_of_an_upload_that_fails_nothing_is_left(
    open_files: Opening, owner: str, contents: Callable[[], list[str]], way: str
) -> None:
    files = open_files(most_file_bytes=12 * MB)

    async def attempt() -> None:
        async with files.upload(owner) as upload:
            for _ in range(11 if way == "broken off" else 13):
                await upload.write(b"x" * MB)
                await asyncio.sleep(0)
            raise ZeroDivisionError

    task = asyncio.create_task(attempt())
    if way == "cancelled":
        await eventually(lambda: contents() != [])
        task.cancel()
    expected = {"broken off": ZeroDivisionError, "too large": BodyTooLarge}
    with pytest.raises(expected.get(way, asyncio.CancelledError)):
        await task
    await eventually(lambda: contents() == [])
    assert await names(files, owner) == []
    await eventually(lambda: _rows(files, owner, 0))


async def _rows(files: Files, owner: str, count: int) -> bool:
    """Of the owner, whatever their state."""
    from sqlalchemy import func, select

    from app.store.tables import FILES

    rows = await files._access.opened()
    query = select(func.count()).select_from(FILES).where(FILES.c.owner == owner)
    async with rows._database.reading() as connection:
        return (await connection.execute(query)).scalar_one() == count


async def test_one_key_cannot_have_more_files_than_it_may(open_files: Opening, owner: str) -> None:
    files = open_files(most_files=2)
    first = await put(files, owner)
    async with files.upload(owner):  # one that arrives counts
        with pytest.raises(InvalidRequest, match="FILE_MAX_COUNT") as caught:
            await put(files, owner)
        assert (caught.value.param, caught.value.code) == ("file", "file_quota_exceeded")
        await put(files, "another" + owner)
    await eventually(lambda: _rows(files, owner, 1))
    await put(files, owner)
    await files.remove(owner, first.id)
    await eventually(lambda: _rows(files, owner, 1))
    await put(files, owner)


@pytest.mark.parametrize("limit", ["most_owner_bytes", "most_bytes"])
async def test_bytes_are_counted_while_they_arrive(
    open_files: Opening, owner: str, limit: str
) -> None:
    others = await _bytes_of_all(open_files()) if limit == "most_bytes" else 0
    files = open_files(**{limit: others + 4 * MB})
    await put(files, owner, b"x" * 3 * MB)
    sent: list[int] = []

    async def attempt() -> None:
        async with files.upload(owner) as upload:
            for _ in range(40):
                await upload.write(b"x" * 65_536)
                sent.append(65_536)

    with pytest.raises(InvalidRequest, match="_BYTES") as caught:
        await attempt()
    assert sum(sent) == MB
    assert caught.value.code == "file_quota_exceeded"
    await eventually(lambda: _rows(files, owner, 1))
    await put(files, owner, b"x" * MB)  # exactly what is left


async def _bytes_of_all(files: Files) -> int:
    from sqlalchemy import func, select

    from app.store.tables import FILES

    await files.tried()
    rows = await files._access.opened()
    async with rows._database.reading() as connection:
        return int((await connection.execute(select(func.sum(FILES.c.size)))).scalar() or 0)


async def test_uploads_at_once_to_several_servers_do_not_share_the_same_room(
    open_files: Opening, owner: str
) -> None:
    servers = [open_files(most_owner_bytes=8 * MB) for _ in range(2)]

    async def attempt(files: Files) -> bool:
        try:
            await put(files, owner, b"x" * 3 * MB)
        except InvalidRequest:
            return False
        return True

    kept = await asyncio.gather(*[attempt(files) for files in servers * 4])
    assert (
        sum(kept) <= 2
    )  # it may be none: what others have set aside counts until they are refused
    for _ in range(2 - sum(kept)):
        await eventually(lambda: _rows(servers[0], owner, sum(kept)))
        await put(servers[0], owner, b"x" * 3 * MB)
        kept.append(True)
    assert not await attempt(servers[1])


async def test_uploads_at_a_time_are_bounded(open_files: Opening, owner: str) -> None:
    files = open_files(most_uploads=1)
    async with files.upload(owner):
        with pytest.raises(Overloaded, match="FILE_MAX_UPLOADS"):
            await put(files, owner)


async def test_a_file_is_gone_when_its_time_has_come(
    open_files: Opening,
    owner: str,
    contents: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upkeep, "CLAIM_S", 0.2)
    monkeypatch.setattr(upkeep, "_SWEEP_S", 0.1)
    monkeypatch.setattr(upkeep, "_ROUND_S", 0.05)
    files = open_files(ttl_s=3600.0)
    lasting = await put(files, owner)
    assert lasting.expires == pytest.approx(time.time() + 3600, abs=5)
    file = await put(files, owner, lasts_s=0.3)
    assert await files.find(owner, file.id) is not None
    await asyncio.sleep(0.35)
    assert await files.find(owner, file.id) is None
    assert len(await names(files, owner)) == 1
    await eventually(lambda: len(contents()) == 1)
    await eventually(lambda: _rows(files, owner, 1))


async def test_what_a_dead_server_was_receiving_is_removed_and_what_lives_is_not(
    open_files: Opening,
    owner: str,
    contents: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (upkeep, files_module):
        monkeypatch.setattr(module, "CLAIM_S", 1.0)
    monkeypatch.setattr(upkeep, "_SWEEP_S", 0.1)
    monkeypatch.setattr(upkeep, "_ROUND_S", 0.05)
    monkeypatch.setattr(upkeep, "_RENEW_S", 0.1)
    dead, alive = open_files(), open_files()
    left = f"file-{os.urandom(16).hex()}"
    rows = await _rows_of(dead)
    await rows.begin(owner, left, dead.limits, 1.0)
    writing = dead._storage.begin(left)
    await writing.write(b"x" * MB)
    await writing.finish()  # the server dies here: it is whole, and its client was not told
    async with alive.upload(owner) as upload:
        await upload.write(b"y" * MB)
        await eventually(lambda: _rows(alive, owner, 1), timeout_s=20)
        await asyncio.sleep(1.2)  # longer than a claim lasts that is not renewed
        file = await upload.keep(filename="b", purpose="batch", lasts_s=None)
    assert await alive.content(file) == b"y" * MB
    await eventually(lambda: len(contents()) == 1)


async def _rows_of(files: Files) -> Any:
    await files.tried()
    return await files._access.opened()


async def test_an_upload_that_was_taken_for_dead_is_not_kept(
    open_files: Opening, owner: str, contents: Callable[[], list[str]]
) -> None:
    files = open_files()

    async def attempt() -> None:
        async with files.upload(owner) as upload:
            await upload.write(b"x")
            await (await _rows_of(files)).give_up(upload.id, 9.0)
            await upload.keep(filename="a", purpose="batch", lasts_s=None)

    with pytest.raises(StoreUnavailable):
        await attempt()
    await eventually(lambda: contents() == [])
