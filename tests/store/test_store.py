"""The store on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import importlib
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from app.errors import ConfigError, StoreUnavailable
from app.lifecycle import Phase
from app.store.opening import store_of
from app.store.records import (
    Added,
    Conversation,
    InConversation,
    Item,
    Kept,
    LinkGone,
    NotAnswered,
    TooLarge,
    TooLong,
)
from app.store.store import Store
from tests.store.conftest import Opening
from tests.support.machine import allowed
from tests.support.scripted import ScriptedEngine
from tests.support.serving import eventually, serve, settings

MOST: dict[str, int] = {"most_bytes": 10**7, "most_items": 10**6}
BYTES = 10**7


def response(id: str | None = None, **fields: Any) -> Kept:
    id = id or f"resp_{uuid.uuid4().hex}"
    content: dict[str, Any] = {"head": b'{"output":[', "output": b"1", "tail": b"]}"}
    content |= {"input": b"2", "items": 2}
    return Kept(**({"id": id, "status": "completed"} | content | fields))


async def chain(store: Store, owner: str, length: int) -> list[str]:
    parent, ids = None, []
    for no in range(length):
        kept = response(parent=parent, input=b"in%d" % no, output=b"out%d" % no)
        await store.put(owner, kept)
        parent = kept.id
        ids.append(kept.id)
    return ids


async def test_a_response_is_read_as_it_was_written_by_another_server_too(
    open_store: Opening, owner: str
) -> None:
    one, other = open_store(), open_store()
    kept = response(parent="resp_x", output=b"\x00 any bytes")
    await one.put(owner, kept)
    assert await other.get(owner, kept.id) == kept


async def test_what_one_owner_has_another_cannot_see_use_or_remove(
    open_store: Opening, owner: str
) -> None:
    store = open_store()
    kept = response()
    await store.put(owner, kept)
    thief = uuid.uuid4().hex
    assert await store.get(thief, kept.id) is None
    assert await store.chain(thief, kept.id, **MOST) is None
    for of_input in (False, True):
        found = await store.parts(thief, [kept.id], of_input=of_input, most_bytes=BYTES)
        assert found == {}
    assert not await store.remove(thief, kept.id)
    assert await store.get(owner, kept.id) is not None


async def test_a_chain_is_the_turns_in_their_order_and_branches_where_it_is_told_to(
    open_store: Opening, owner: str
) -> None:
    store = open_store()
    ids = await chain(store, owner, 3)
    branch = response(parent=ids[0], input=b"other", output=b"way")
    await store.put(owner, branch)

    async def turns(id: str) -> list[tuple[bytes, bytes]]:
        found = await store.chain(owner, id, **MOST)
        assert found is not None
        return [(turn.input, turn.output) for turn in found[1]]

    assert await turns(ids[2]) == [(b"in0", b"out0"), (b"in1", b"out1"), (b"in2", b"out2")]
    assert await turns(branch.id) == [(b"in0", b"out0"), (b"other", b"way")]


async def test_a_chain_with_a_removed_link_is_not_found(open_store: Opening, owner: str) -> None:
    store = open_store()
    ids = await chain(store, owner, 3)
    assert await store.remove(owner, ids[1])
    assert not await store.remove(owner, ids[1])
    with pytest.raises(LinkGone, match=ids[1]):
        await store.chain(owner, ids[2], **MOST)
    assert await store.chain(owner, ids[1], **MOST) is None
    assert await store.chain(owner, ids[0], **MOST) is not None


async def test_a_chain_is_bounded_in_bytes_and_in_links(
    open_store: Opening, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.store.response_rows.MOST_LINKS", 5)
    store = open_store()
    ids = await chain(store, owner, 6)
    found = await store.chain(owner, ids[4], **MOST)
    assert found is not None
    assert found[0] == ids[:5]
    with pytest.raises(TooLong):
        await store.chain(owner, ids[5], **MOST)
    with pytest.raises(TooLong):
        await store.chain(owner, ids[4], **(MOST | {"most_bytes": 20}))
    with pytest.raises(TooLong):
        await store.chain(owner, ids[4], **(MOST | {"most_items": 9}))


async def test_a_response_that_is_not_complete_or_in_a_conversation_has_no_chain(
    open_store: Opening, owner: str
) -> None:
    store = open_store()
    running, within = response(status="in_progress"), response(conversation="conv_1")
    store.claim(owner, running.id, lambda: None)
    await store.put(owner, running)
    await store.put(owner, within)
    with pytest.raises(NotAnswered):
        await store.chain(owner, running.id, **MOST)
    with pytest.raises(InConversation):
        await store.chain(owner, within.id, **MOST)


# -- bounds --------------------------------------------------------------------------------------


async def test_over_a_bound_the_oldest_go_of_the_owner_who_has_most(open_store: Opening) -> None:
    store = open_store(most_responses=20)
    mine, theirs = uuid.uuid4().hex, uuid.uuid4().hex
    first = await chain(store, mine, 3)
    many = [response() for _ in range(40)]
    for each in many:
        await store.put(theirs, each)
    await store.tidy()
    assert all([await store.get(mine, id) for id in first])
    left = [each.id for each in many if await store.get(theirs, each.id)]
    assert left == [each.id for each in many][-len(left) :]
    assert 10 <= len(left) + 3 <= 20


async def test_bytes_are_bounded(open_store: Opening, owner: str) -> None:
    store = open_store(most_bytes=100_000)
    for _ in range(40):
        await store.put(owner, response(output=bytes(9_000)))
    await eventually(lambda: not store._care.crowded.is_set())
    await store.tidy()
    count, size = await store._call("get", lambda rows: rows.upkeep.totals())
    assert 8 <= count <= 11
    assert size <= 100_000
    with pytest.raises(TooLarge):
        await store.put(owner, response(output=bytes(1_000_001)))


async def test_what_is_used_stays_and_a_chain_stays_whole(open_store: Opening, owner: str) -> None:
    store = open_store(most_responses=20)
    ids = await chain(store, owner, 5)
    for _ in range(60):
        await store.put(owner, response())
        assert await store.chain(owner, ids[4], **MOST) is not None
        await store.tidy()


async def test_what_was_not_used_for_the_time_to_live_goes(
    open_store: Opening, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(ttl_s=100.0)
    old, used = response(), response()
    await store.put(owner, old)
    await store.put(owner, used)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 90)
    await store.get(owner, used.id)
    await store.tidy()
    monkeypatch.setattr(time, "time", lambda: now + 110)
    await store.tidy()
    assert await store.get(owner, old.id) is None
    assert await store.get(owner, used.id) is not None


# -- in the background ---------------------------------------------------------------------------


async def test_another_server_can_cancel_what_this_one_generates(
    open_store: Opening, owner: str
) -> None:
    one, other = open_store(), open_store()
    kept, cancelled = response(status="in_progress"), asyncio.Event()
    one.claim(owner, kept.id, cancelled.set)
    await one.put(owner, kept)
    await other.cancel(owner, kept.id)
    async with asyncio.timeout(30):
        await cancelled.wait()


async def test_a_response_whose_server_has_died_is_dead(
    open_store: Opening, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = open_store(), open_store()
    kept = response(status="in_progress")
    one.claim(owner, kept.id, lambda: None)
    await one.put(owner, kept)
    found = await other.get(owner, kept.id)
    assert found is not None
    assert found.status == "in_progress"
    monkeypatch.setattr("app.store.care.CLAIM_S", -1.0)
    kept = response(status="in_progress")
    one.claim(owner, kept.id, lambda: None)
    await one.put(owner, kept)
    found = await other.get(owner, kept.id)
    assert found is not None
    assert found.status == "dead"
    with pytest.raises(NotAnswered, match="failed"):
        await other.chain(owner, kept.id, **MOST)
    await other.fail(owner, response(kept.id, status="failed"))
    found = await other.get(owner, kept.id)
    assert found is not None
    assert found.status == "failed"
    assert await other.remove(owner, kept.id)
    await other.fail(owner, response(kept.id, status="failed"))
    assert await other.get(owner, kept.id) is None


async def test_what_was_removed_while_it_was_generated_stays_removed_and_adds_nothing(
    open_store: Opening, owner: str
) -> None:
    one, other, made = open_store(), open_store(), conversation()
    await one.start_conversation(owner, made, ())
    kept = response(status="in_progress", conversation=made.id)
    assert await one.hold(owner, made.id, kept.id)
    one.claim(owner, kept.id, lambda: None)
    assert await one.put(owner, kept)
    assert await other.remove(owner, kept.id)
    assert not await one.put(owner, response(kept.id), Added(made.id, items("a")))
    assert await one.get(owner, kept.id) is None
    assert await one.history(owner, made.id, **MOST) == []


async def test_no_server_is_taken_for_dead_while_the_store_was_away(
    open_store: Opening, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None could renew its claims then."""
    one, other = open_store(), open_store()
    kept = response(status="in_progress")
    one._care._renewed_at = time.monotonic()  # it is not due again while this test runs
    one.claim(owner, kept.id, lambda: None)
    monkeypatch.setattr("app.store.care.CLAIM_S", -1.0)
    await one.put(owner, kept)
    monkeypatch.setattr("app.store.care.CLAIM_S", 30.0)
    for since, status in ((time.monotonic(), "in_progress"), (time.monotonic() - 31, "dead")):
        other._care._steady_since = since
        found = await other.get(owner, kept.id)
        assert found is not None
        assert found.status == status
        assert await other.runs(owner, kept.id) is (status == "in_progress")
    assert not await other.runs(owner, response().id)


async def test_what_has_ended_is_not_failed_and_what_was_failed_does_not_end_otherwise(
    open_store: Opening, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = open_store(), open_store()
    monkeypatch.setattr("app.store.care.CLAIM_S", -1.0)
    for ended_first in (True, False):
        kept = response(status="in_progress")
        one.claim(owner, kept.id, lambda: None)
        await one.put(owner, kept)
        ends = (one.put(owner, response(kept.id)),
                other.fail(owner, response(kept.id, status="failed")))  # fmt: skip
        first, second = ends if ended_first else ends[::-1]
        assert await first
        assert not await second
        found = await other.get(owner, kept.id)
        assert found is not None
        assert found.status == ("completed" if ended_first else "failed")


async def test_what_is_generated_is_not_removed_over_a_bound(
    open_store: Opening, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.store.care._RENEW_S", 0.0)
    store = open_store(most_responses=5)
    running = response(status="in_progress")
    store.claim(owner, running.id, lambda: None)
    await store.put(owner, running)
    for _ in range(12):
        await store.put(owner, response())
        await store._care._round(await store._access.opened())
    await store.tidy()
    assert await store.put(owner, response(running.id))


# -- conversations -------------------------------------------------------------------------------


def conversation() -> Conversation:
    return Conversation(id=f"conv_{uuid.uuid4().hex}", created=1, metadata=b"{}")


def items(*names: str) -> list[Item]:
    return [Item(name, name.encode()) for name in names]


async def test_a_conversation_has_its_items_in_order_in_pages(
    open_store: Opening, owner: str
) -> None:
    store, made = open_store(), conversation()
    await store.start_conversation(owner, made, items("a", "b"))
    assert await store.append(owner, made.id, items("c"))
    assert await store.history(owner, made.id, **MOST) == [b"a", b"b", b"c"]
    seen, after = [], None
    while True:
        page = await store.page(owner, made.id, after=after, limit=1, newest_first=True)
        assert page is not None
        seen += [item.id for item in page.items]
        after = seen[-1]
        if not page.more:
            break
    assert seen == ["c", "b", "a"]
    assert await store.page(owner, made.id, after="x", limit=1, newest_first=True) is None
    assert await store.remove_item(owner, made.id, "b")
    assert not await store.remove_item(owner, made.id, "b")
    assert await store.history(owner, made.id, **MOST) == [b"a", b"c"]
    with pytest.raises(TooLong):
        await store.history(owner, made.id, most_bytes=3, most_items=9)
    with pytest.raises(TooLong):
        await store.history(owner, made.id, most_bytes=BYTES, most_items=1)
    assert await store.items(owner, ["c", "x"], most_bytes=BYTES) == {"c": b"c"}
    assert await store.end_conversation(owner, made.id)
    assert await store.history(owner, made.id, **MOST) is None


async def test_a_conversation_is_its_owners_alone(open_store: Opening, owner: str) -> None:
    store, made, thief = open_store(), conversation(), uuid.uuid4().hex
    await store.start_conversation(owner, made, items("a"))
    assert await store.conversation(thief, made.id) is None
    assert await store.history(thief, made.id, **MOST) is None
    assert await store.page(thief, made.id, after=None, limit=9, newest_first=False) is None
    assert await store.item(thief, made.id, "a") is None
    assert await store.items(thief, ["a"], most_bytes=BYTES) == {}
    assert await store.hold(thief, made.id, "resp_1") is None
    assert not await store.append(thief, made.id, items("b"))
    assert not await store.describe(thief, made.id, b"{}")
    assert not await store.remove_item(thief, made.id, "a")
    assert not await store.end_conversation(thief, made.id)
    assert await store.item(owner, made.id, "a") == b"a"


async def test_a_conversation_is_held_by_one_response_which_adds_to_it_and_frees_it(
    open_store: Opening, owner: str
) -> None:
    one, other, made = open_store(), open_store(), conversation()
    await one.start_conversation(owner, made, ())
    kept = response(conversation=made.id)
    assert await one.hold(owner, made.id, kept.id)
    assert await other.hold(owner, made.id, "resp_2") is False
    await one.put(owner, kept, Added(made.id, items("a", "b")))
    assert await other.hold(owner, made.id, "resp_2")
    assert await other.history(owner, made.id, **MOST) == [b"a", b"b"]
    await other.release(made.id, "resp_2")
    assert await one.hold(owner, made.id, "resp_3")


async def test_many_append_at_the_same_time_and_nothing_is_lost(
    open_store: Opening, owner: str
) -> None:
    stores, made = [open_store(), open_store()], conversation()
    await stores[0].start_conversation(owner, made, ())
    await asyncio.gather(
        *[stores[no % 2].append(owner, made.id, items(f"{no}")) for no in range(40)]
    )
    kept = await stores[0].history(owner, made.id, **MOST)
    assert kept is not None
    assert sorted(map(int, kept)) == list(range(40))


async def test_the_lock_of_a_server_that_died_ends_and_it_adds_nothing_more(
    open_store: Opening, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other, made = open_store(), open_store(), conversation()
    await one.start_conversation(owner, made, ())
    kept = response(conversation=made.id)
    monkeypatch.setattr("app.store.care.CLAIM_S", -1.0)  # of `one`'s task, too
    assert await one.hold(owner, made.id, kept.id)
    monkeypatch.setattr(one._care, "holders", set())  # its server is dead: it renews no more
    monkeypatch.setattr("app.store.care.CLAIM_S", 90.0)
    assert await other.hold(owner, made.id, "resp_2")
    await one.put(owner, kept, Added(made.id, items("a")))
    assert await one.history(owner, made.id, **MOST) == []


async def test_pages_are_bounded_in_bytes(
    open_store: Opening, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.store.store._PAGE_BYTES", 10)
    store, made = open_store(), conversation()
    await store.start_conversation(
        owner, made, [Item(name, bytes(size)) for name, size in (("a", 6), ("b", 6), ("c", 99))]
    )
    seen: list[str] = []
    for _ in range(3):
        page = await store.page(
            owner, made.id, after=seen[-1] if seen else None, limit=9, newest_first=False
        )
        assert page is not None
        (item,) = page.items
        seen.append(item.id)
        assert page.more is (item.id != "c")
    assert seen == ["a", "b", "c"]


# -- failures ------------------------------------------------------------------------------------


async def test_a_database_that_is_not_there_is_told_and_comes_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, owner: str
) -> None:
    folder = tmp_path / "gone"
    folder.write_text("a file where the folder should be")
    store = Store(
        f"sqlite:///{folder}/x.sqlite3",
        most_responses=9, most_bytes=10**6, most_response_bytes=10**6, ttl_s=9.0,
    )  # fmt: skip
    try:
        kept = response()
        with pytest.raises(StoreUnavailable):
            await store.put(owner, kept)
        folder.unlink()

        async def works() -> bool:
            try:
                await store.put(owner, kept)
            except StoreUnavailable:
                return False
            return True

        await eventually(works)
        assert await store.get(owner, kept.id) is not None
    finally:
        await store.close()


async def test_a_caller_that_leaves_in_the_middle_harms_nothing(
    open_store: Opening, owner: str
) -> None:
    store = open_store()
    kept = [response() for _ in range(20)]
    for no, each in enumerate(kept):
        putting = asyncio.create_task(store.put(owner, each))
        for _ in range(no):
            await asyncio.sleep(0)
        putting.cancel()
        await asyncio.wait({putting})
    last = response()
    await store.put(owner, last)
    assert await store.get(owner, last.id) == last


async def test_a_store_in_memory_outlives_callers_that_leave(owner: str) -> None:
    store = Store(
        "sqlite://", most_responses=99, most_bytes=10**6, most_response_bytes=10**6, ttl_s=99.0
    )
    try:
        first = response()
        await store.put(owner, first)
        for steps in range(12):
            putting = asyncio.create_task(store.put(owner, response()))
            for _ in range(steps):
                await asyncio.sleep(0)
            putting.cancel()
            await asyncio.wait({putting})
        assert await store.get(owner, first.id) == first
    finally:
        await store.close()


@pytest.mark.parametrize("id", ["", "\0", "a b", "é", "x" * 300])
async def test_what_is_no_id_is_not_found(open_store: Opening, owner: str, id: str) -> None:
    store, made = open_store(), conversation()
    await store.start_conversation(owner, made, items("a"))
    assert await store.get(owner, id) is None
    assert await store.chain(owner, id, **MOST) is None
    assert not await store.remove(owner, id)
    assert await store.history(owner, id, **MOST) is None
    assert await store.hold(owner, id, "resp_1") is None
    assert await store.items(owner, [id], most_bytes=BYTES) == {}
    assert await store.item(owner, made.id, id) is None
    assert await store.page(owner, made.id, after=id, limit=1, newest_first=True) is None
    await store.tidy()


async def test_a_call_that_takes_too_long_is_not_waited_for_and_the_next_are_not_tried(
    open_store: Opening, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    await store.put(owner, response())
    monkeypatch.setattr("app.store.access._CALL_S", 0.05)
    hanging = asyncio.Event()

    async def hangs(_: Any) -> None:
        await hanging.wait()

    with pytest.raises(StoreUnavailable):
        await store._call("get", hangs)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await store.put(owner, response())
    assert time.monotonic() - began < 0.05
    hanging.set()
    monkeypatch.setattr(store._access, "_resting_until", 0.0)
    monkeypatch.setattr("app.store.access._CALL_S", 8.0)
    await store.put(owner, response())


def test_a_postgresql_url_is_taken_as_hosters_write_it() -> None:
    sqlalchemy = pytest.importorskip("app.store.database")
    url = sqlalchemy.driver_url("postgres://u:p@h/db?sslmode=require&channel_binding=prefer")
    assert url == "postgresql+asyncpg://u:p@h/db?ssl=require"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"STORE_URL": "mysql://h/db"}, "STORE_URL: must be"),
        ({"STORE_URL": "postgresql:///db"}, "STORE_URL: must be"),
        ({"STORE_URL": "sqlite://relative.db"}, "STORE_URL: must be"),
        ({"STORE_URL": "postgresql://h/db?sslrootcert=x"}, "'sslrootcert'"),
        ({"STORE_URL": "memory", "TOKENIZER_WORKERS": "2"}, "TOKENIZER_WORKERS"),
    ],
)
def test_a_wrong_url_is_told_at_the_start(environment: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        settings(**environment)


async def test_a_folder_that_cannot_be_written_gives_way_to_a_temporary_one(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    store = store_of(settings(STORE_URL="", STATE_DIR=str(tmp_path / "file" / "x")))
    assert store is not None
    assert tempfile.gettempdir() in store._access._url


async def test_the_server_is_ready_once_its_database_was_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    imports, goes_on = importlib.import_module, threading.Event()

    def slowly(name: str) -> Any:
        if name == "app.store.rows":
            assert goes_on.wait(60)
        return imports(name)

    monkeypatch.setattr("app.store.access.importlib.import_module", slowly)
    async with serve(ScriptedEngine("x"), ready=False) as running:
        try:
            await eventually(lambda: running.serving.host.model is not None)
            await asyncio.sleep(0)
            assert running.lifecycle.phase is Phase.WARMING
            assert (await running.client.get("/health")).status_code == 503
        finally:
            goes_on.set()
        await eventually(lambda: running.lifecycle.phase is Phase.READY)
        answer = await running.client.post(
            "/v1/responses", json={"model": "default", "input": "hi"}
        )
        assert answer.json()["store"] is True


async def test_a_server_whose_database_is_away_is_ready_and_says_so_at_once(tmp_path: Any) -> None:
    (tmp_path / "file").write_text("where the folder should be")
    async with serve(ScriptedEngine("x"), STORE_URL=f"sqlite:///{tmp_path}/file/x.db") as running:
        began = time.monotonic()
        answer = await running.client.post(
            "/v1/responses", json={"model": "default", "input": "hi"}
        )
        assert answer.status_code == 200
        assert answer.json()["store"] is False
        assert time.monotonic() - began < allowed(1.5)
