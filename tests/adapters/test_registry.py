"""Adapters by name: loaded once, lent, unloaded when unused, least recently used out."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from app.adapters.registry import Adapters
from app.errors import (
    AdapterRefused,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    ServeError,
)
from tests.support.adapters import write_adapter
from tests.support.serving import eventually


class Engine:
    """Keeps what is loaded; `hold` stops loads, `fault` ends the next one."""

    def __init__(self) -> None:
        self.ids: dict[str, str] = {}
        self.loads: list[str] = []
        self.unloads: list[str] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.fault: Exception | None = None

    async def load_adapter(self, name: str, path: str) -> str:
        self.loads.append(name)
        await self.hold.wait()
        if (fault := self.fault) is not None:
            self.fault = None
            raise fault
        id = f"{name}-{len(self.loads)}"
        self.ids[id] = path
        return id

    async def unload_adapter(self, id: str) -> None:
        del self.ids[id]
        self.unloads.append(id)


def adapters(engine: Engine, folder: Path | None = None, most: int = 3, s: float = 5) -> Adapters:
    return Adapters(
        engine, taken=("base",), folder=str(folder) if folder else None, most=most, patience_s=s
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "abcde":
        write_adapter(tmp_path / name)
    (tmp_path / "nothing").mkdir()
    return tmp_path


async def settled(times: int = 20) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


async def test_one_that_is_loaded_is_lent_by_its_name() -> None:
    engine = Engine()
    known = adapters(engine)
    await known.load("sql", "/sql")
    assert (known.may_have("sql"), known.may_have("other")) == (True, False)
    lease = await known.lend("sql")
    assert engine.ids == {lease.id: "/sql"}
    assert await known.names() == ["sql"]
    assert known.loaded() == {"sql": "/sql"}
    with pytest.raises(ModelNotFound):
        await known.lend("other")


async def test_an_adapter_in_use_is_never_pulled_away() -> None:
    engine = Engine()
    known = adapters(engine)
    await known.load("sql", "/sql")
    leases = [await known.lend("sql") for _ in range(50)]
    unloading = asyncio.create_task(known.unload("sql"))
    await settled()
    with pytest.raises(ModelNotFound):  # for new requests it is gone
        await known.lend("sql")
    for lease in leases:
        assert not unloading.done()
        assert lease.id in engine.ids
        lease.end()
        lease.end()  # counts once
        await settled()
    await unloading
    assert engine.ids == {}


async def test_its_name_is_free_while_its_last_requests_run() -> None:
    engine = Engine()
    known = adapters(engine)
    await known.load("sql", "/old")
    old = await known.lend("sql")
    unloading = asyncio.create_task(known.unload("sql"))
    await settled()
    await known.load("sql", "/new")
    new = await known.lend("sql")
    assert [engine.ids[each.id] for each in (old, new)] == ["/old", "/new"]
    old.end()
    await unloading
    assert list(engine.ids.values()) == ["/new"]


async def test_one_of_the_folder_is_loaded_once_for_all_who_ask(folder: Path) -> None:
    engine = Engine()
    known = adapters(engine, folder)
    assert await known.names() == list("abcde")
    engine.hold.clear()
    asking = [asyncio.create_task(known.lend("a")) for _ in range(10)]
    await eventually(lambda: engine.loads == ["a"])
    engine.hold.set()
    leases = await asyncio.gather(*asking)
    assert engine.loads == ["a"]
    assert len({lease.id for lease in leases}) == 1


@pytest.mark.parametrize("name", ["nothing", "..", "../a", "a/..", "f", "", ".a", "base", "a\0"])
async def test_only_adapters_of_the_folder_itself_are_found(folder: Path, name: str) -> None:
    (folder / "base").mkdir()
    write_adapter(folder / "base")
    engine = Engine()
    with pytest.raises(ModelNotFound):
        await adapters(engine, folder).lend(name)
    assert engine.loads == []


async def test_the_least_recently_used_makes_room(folder: Path) -> None:
    engine = Engine()
    known = adapters(engine, folder, most=2)
    for name in "abac":
        (await known.lend(name)).end()
    assert engine.loads == ["a", "b", "c"]
    assert engine.unloads == ["b-2"]
    assert len(engine.ids) == 2


async def test_where_all_are_in_use_a_request_waits_and_then_is_refused(folder: Path) -> None:
    engine = Engine()
    known = adapters(engine, folder, most=2, s=0.2)
    a, b = await known.lend("a"), await known.lend("b")
    with pytest.raises(Overloaded, match="in use"):
        await known.lend("c")
    waiting = asyncio.create_task(known.lend("c"))
    await eventually(lambda: known._wanted == 1)
    a.end()
    (await waiting).end()
    assert engine.unloads == ["a-1"]
    b.end()


async def test_as_many_leave_as_are_wanted_and_no_more(folder: Path) -> None:
    engine = Engine()
    known = adapters(engine, folder, most=3)
    for name in "abc":
        (await known.lend(name)).end()
    both = await asyncio.gather(known.lend("d"), known.lend("e"))
    assert engine.unloads == ["a-1", "b-2"]
    assert {lease.id[0] for lease in both} == {"d", "e"}


async def test_many_who_ask_for_one_evict_one(folder: Path) -> None:
    engine = Engine()
    known = adapters(engine, folder, most=3)
    for name in "abc":
        (await known.lend(name)).end()
    leases = await asyncio.gather(*[known.lend("d") for _ in range(20)])
    assert engine.unloads == ["a-1"]
    assert len({lease.id for lease in leases}) == 1


async def test_one_whose_client_left_while_it_was_loaded_makes_room(folder: Path) -> None:
    engine = Engine()
    known = adapters(engine, folder, most=1)
    engine.hold.clear()
    gone = asyncio.create_task(known.lend("a"))
    await eventually(lambda: engine.loads == ["a"])
    waiting = asyncio.create_task(known.lend("b"))
    await eventually(lambda: known._wanted == 1)
    gone.cancel()
    engine.hold.set()
    async with asyncio.timeout(2):
        assert (await waiting).id == "b-2"


async def test_a_client_that_waits_for_the_operators_broken_one_learns_nothing_of_it() -> None:
    engine = Engine()
    known = adapters(engine)
    engine.hold.clear()
    engine.fault = AdapterRefused("/secret/path is broken")
    loading = asyncio.create_task(known.load("x", "/x"))
    await settled()
    asking = asyncio.create_task(known.lend("x"))
    await settled()
    engine.hold.set()
    with pytest.raises(AdapterRefused):
        await loading
    with pytest.raises(ModelNotFound, match="log says why"):
        await asking


async def test_what_the_operator_loads_stays_until_he_unloads_it(folder: Path) -> None:
    engine = Engine()
    known = adapters(engine, folder, most=2, s=0.1)
    await known.load("x", "/x")
    await known.load("y", "/y")
    with pytest.raises(InvalidRequest, match="MAX_CPU_LORAS"):
        await known.load("z", "/z")
    with pytest.raises(Overloaded):
        await known.lend("a")
    await known.unload("x")
    (await known.lend("a")).end()
    await known.load("z", "/z")  # the folder's makes room
    assert sorted(engine.ids.values()) == ["/y", "/z"]


@pytest.mark.parametrize("name", ["", "a b", "-a", "ä", "x" * 201, "base", "x\n"])
async def test_a_name_that_cannot_be_asked_for_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await adapters(Engine()).load(name, "/x")
    assert raised.value.param == "lora_name"


async def test_a_name_is_loaded_once() -> None:
    known = adapters(Engine())
    await known.load("x", "/x")
    with pytest.raises(InvalidRequest, match="is loaded"):
        await known.load("x", "/y")
    with pytest.raises(ModelNotFound):
        await known.unload("y")


async def test_a_broken_one_is_an_error_and_costs_nothing_else(folder: Path) -> None:
    engine = Engine()
    known = adapters(engine, folder, most=1)
    engine.fault = AdapterRefused("its rank is 5")
    with pytest.raises(AdapterRefused, match="its rank is 5"):
        await known.load("x", "/x")
    engine.fault = AdapterRefused("its rank is 5")
    for _ in range(3):  # tried once, and told again
        with pytest.raises(ModelNotFound, match="log says why"):
            await known.lend("a")
    assert engine.loads == ["x", "a"]
    (await known.lend("b")).end()
    assert await known.names() == list("abcde")


async def test_a_fault_of_the_engine_is_told_to_all_who_wait(folder: Path) -> None:
    engine = Engine()
    known = adapters(engine, folder)
    engine.hold.clear()
    engine.fault = InternalError("The engine takes nothing.")
    asking = [asyncio.create_task(known.lend("a")) for _ in range(3)]
    await eventually(lambda: engine.loads == ["a"])
    engine.hold.set()
    for each in await asyncio.gather(*asking, return_exceptions=True):
        assert isinstance(each, ServeError)


async def test_who_leaves_while_it_is_loaded_leaves_the_load_to_the_others(folder: Path) -> None:
    engine = Engine()
    known = adapters(engine, folder)
    engine.hold.clear()
    gone, stays = (asyncio.create_task(known.lend("a")) for _ in range(2))
    await eventually(lambda: engine.loads == ["a"])
    gone.cancel()
    engine.hold.set()
    assert (await stays).id == "a-1"


async def test_closing_answers_those_who_wait() -> None:
    engine = Engine()
    known = adapters(engine)
    engine.hold.clear()
    loading = asyncio.create_task(known.load("x", "/x"))
    await settled()
    await known.close()
    with pytest.raises(InternalError):
        await loading
