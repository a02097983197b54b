"""The adapters of the served model by their names: loaded, lent to requests, unloaded.

    operator ─ load, unload ─┐
    request ── lend ─────────┴─> Adapters ─> Engine.load_adapter, unload_adapter

An adapter that is lent is never taken out of the engine: who unloads it waits until its last
request has ended, while new requests do not find it any more. Those of the operator's folder are
loaded when they are first asked for, and the one that was used least recently makes room.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from app.adapters.files import CONFIG
from app.errors import (
    AdapterRefused,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    ServeError,
)
from app.logs.setup import log
from app.settings.catalogue import ADAPTER_NAME

_IN_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_MOST_LISTED = 10_000
_REMEMBERED_S = 30.0
"""An adapter that could not be loaded is tried again after so long."""


class AdapterEngine(Protocol):
    async def load_adapter(self, name: str, path: str) -> str:
        """Returns the id that a `Question` names it by. Raises AdapterRefused, ServeError."""

    async def unload_adapter(self, id: str) -> None:
        """Once no request of it runs in the engine."""


class Adapter:
    """One that is loaded, or is about to be."""

    def __init__(self, name: str, path: str, *, stays: bool) -> None:
        self.name = name
        self.path = path
        self.stays = stays
        """Until the operator unloads it; else until another one of the folder needs its room."""
        self.id: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.users = 0
        self.used_at = time.monotonic()
        self.idle = asyncio.Event()
        self.idle.set()


class Lease:
    """A request's use of an adapter."""

    def __init__(self, adapter: Adapter, freed: asyncio.Event) -> None:
        self.id = adapter.id.result()
        self._adapter: Adapter | None = adapter
        self._freed = freed
        adapter.users += 1
        adapter.idle.clear()

    def end(self) -> None:
        """Idempotent."""
        if (adapter := self._adapter) is None:
            return
        self._adapter = None
        adapter.users -= 1
        adapter.used_at = time.monotonic()
        if not adapter.users:
            adapter.idle.set()
            self._freed.set()


class Adapters:
    """All methods belong to one event loop."""

    def __init__(
        self,
        engine: AdapterEngine,
        *,
        taken: Iterable[str],
        folder: str | None,
        most: int,
        patience_s: float,
    ) -> None:
        """`taken`: names of the model itself. `folder`: its subfolders are adapters. `most`: that
        the engine holds. `patience_s`: how long a request waits for room."""
        self._engine = engine
        self._taken = frozenset(taken)
        self._folder = Path(folder).expanduser() if folder else None
        self._most = most
        self._patience_s = patience_s
        self._known: dict[str, Adapter] = {}
        self._held = 0
        """Adapters that are in the engine, or on their way into it or out of it."""
        self._wanted = 0
        """So many wait for room."""
        self._leaving = 0
        """So many are on their way out to make some."""
        self._freed = asyncio.Event()
        """Set whenever there may be room again."""
        self._failed: dict[str, tuple[float, ServeError]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._finding: dict[str, asyncio.Task[None]] = {}
        """Names that are looked for in the folder, and then wait for room."""
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="adapters")
        """The folder may be slow; nothing else waits for it."""

    # -- names -------------------------------------------------------------------------------------

    def may_have(self, name: str) -> bool:
        """It is loaded, or may be in the folder, which is not looked at: it may be remote."""
        return name in self._known or (
            self._folder is not None
            and name not in self._taken
            and _IN_FOLDER.fullmatch(name) is not None
        )

    async def names(self) -> list[str]:
        """Those that a request may ask for, in order."""
        loop = asyncio.get_running_loop()
        in_folder = await loop.run_in_executor(self._threads, self._names_in_folder)
        return sorted({*self._known, *in_folder})

    def _names_in_folder(self) -> list[str]:
        if self._folder is None:
            return []
        try:
            names = sorted(each.name for each in self._folder.iterdir())
        except OSError:  # as if it were empty: each request tells what is wrong
            return []
        return [name for name in names[:_MOST_LISTED] if self._in_folder(name) is not None]

    def loaded(self) -> dict[str, str]:
        """Name -> path of those that are in the engine."""
        return {
            name: adapter.path
            for name, adapter in sorted(self._known.items())
            if adapter.id.done() and not adapter.id.cancelled() and adapter.id.exception() is None
        }

    def _in_folder(self, name: str) -> Path | None:
        if self._folder is None or name in self._taken or not _IN_FOLDER.fullmatch(name):
            return None
        path = self._folder / name
        return path if (path / CONFIG).is_file() else None

    # -- for the operator --------------------------------------------------------------------------

    async def load(self, name: str, path: str) -> None:
        """Raises InvalidRequest, AdapterRefused, ServeError."""
        if not ADAPTER_NAME.fullmatch(name):
            raise InvalidRequest(
                "An adapter's name has 1 to 200 letters, digits and '._:/-', and begins with a "
                "letter or a digit.",
                param="lora_name",
            )
        if name in self._taken:
            raise InvalidRequest("This is a name of the model itself.", param="lora_name")
        if name in self._known:
            raise InvalidRequest("An adapter of this name is loaded.", param="lora_name")
        if self._held >= self._most and all(each.stays for each in self._known.values()):
            raise InvalidRequest(
                f"{self._most} adapters are loaded, which is the most (MAX_CPU_LORAS).",
                param="lora_name",
            )
        await self._room()
        if name in self._known:
            raise InvalidRequest("An adapter of this name is loaded.", param="lora_name")
        await asyncio.shield(self._begin(name, path, stays=True).id)

    async def unload(self, name: str) -> None:
        """Returns once its last request has ended and it has left the engine. Raises
        ModelNotFound; ServeError if it could not be loaded in the first place."""
        if (adapter := self._known.get(name)) is None:
            raise ModelNotFound(f"No adapter `{name[:200]}` is loaded.", param="lora_name")
        await asyncio.shield(adapter.id)
        if self._known.get(name) is not adapter:
            raise ModelNotFound(f"No adapter `{name[:200]}` is loaded.", param="lora_name")
        await asyncio.shield(self._let_go(adapter))

    # -- for requests ------------------------------------------------------------------------------

    async def lend(self, name: str) -> Lease:
        """Raises ModelNotFound, Overloaded, ServeError."""
        while True:
            if (adapter := self._known.get(name)) is None:
                await self._from_folder(name)
                continue
            try:
                await asyncio.shield(adapter.id)
            except AdapterRefused:  # which is for the operator to read
                raise _unservable(name) from None
            if self._known.get(name) is adapter:  # it may have been unloaded meanwhile
                return Lease(adapter, self._freed)

    async def find(self, name: str) -> None:
        """For a request that the engine is not asked for: it need not be loaded. Raises
        ModelNotFound."""
        if name not in self._known:
            loop = asyncio.get_running_loop()
            if await loop.run_in_executor(self._threads, self._in_folder, name) is None:
                raise _not_found(name)

    async def _from_folder(self, name: str) -> None:
        """Begin to load it. One request does that, and the others wait for it."""
        if (finding := self._finding.get(name)) is None:
            finding = self._finding[name] = self._run(self._find(name))
            finding.add_done_callback(lambda _: self._finding.pop(name, None))
        await asyncio.shield(finding)

    async def _find(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        if (path := await loop.run_in_executor(self._threads, self._in_folder, name)) is None:
            raise _not_found(name)
        if (failed := self._failed.get(name)) is not None:
            until, error = failed
            if time.monotonic() < until:
                raise error
            del self._failed[name]
        if name not in self._known:
            await self._room()
        if name not in self._known:  # the operator may have loaded it meanwhile
            self._begin(name, str(path), stays=False)

    # -- both --------------------------------------------------------------------------------------

    async def _room(self) -> None:
        """Returns when one more fits. Raises Overloaded."""
        self._wanted += 1
        try:
            async with asyncio.timeout(self._patience_s):
                while self._held >= self._most:
                    self._evict()
                    self._freed.clear()
                    await self._freed.wait()
        except TimeoutError:
            raise Overloaded("All adapters that fit are in use; try again.") from None
        finally:
            self._wanted -= 1

    def _evict(self) -> None:
        """Unload as many as are wanted, of those that no request uses the oldest first."""
        idle = [
            each
            for each in self._known.values()
            if not each.stays and not each.users and each.id.done()
        ]
        for adapter in sorted(idle, key=lambda each: each.used_at):
            if self._leaving >= self._wanted:
                return
            self._leaving += 1
            self._let_go(adapter).add_done_callback(self._has_left)

    def _has_left(self, _: asyncio.Task[None]) -> None:
        self._leaving -= 1
        self._freed.set()

    def _begin(self, name: str, path: str, *, stays: bool) -> Adapter:
        adapter = self._known[name] = Adapter(name, path, stays=stays)
        self._held += 1
        self._run(self._load(adapter))
        return adapter

    async def _load(self, adapter: Adapter) -> None:
        began = time.monotonic()
        try:
            id = await self._engine.load_adapter(adapter.name, adapter.path)
        except ServeError as error:
            self._fail(adapter, error)
        except BaseException:  # the server ends, or a fault of ours, which its task reports
            self._fail(adapter, InternalError("The adapter could not be loaded."))
            raise
        else:
            adapter.id.set_result(id)
            self._freed.set()  # it may leave again, if its client has left
            seconds = round(time.monotonic() - began, 2)
            log.info("adapter loaded", adapter=adapter.name, seconds=seconds)

    def _fail(self, adapter: Adapter, error: ServeError) -> None:
        log.warning("adapter refused", adapter=adapter.name, reason=error.message)
        del self._known[adapter.name]
        self._gone()
        if not adapter.stays:
            if isinstance(error, AdapterRefused):
                error = _unservable(adapter.name)
            self._failed[adapter.name] = (time.monotonic() + _REMEMBERED_S, error)
        adapter.id.set_exception(error)
        adapter.id.exception()  # those who asked may have left

    def _let_go(self, adapter: Adapter) -> asyncio.Task[None]:
        """From now on no request finds it; it leaves the engine with its last one."""
        del self._known[adapter.name]
        return self._run(self._unload(adapter))

    async def _unload(self, adapter: Adapter) -> None:
        await adapter.idle.wait()
        try:
            await self._engine.unload_adapter(adapter.id.result())
        except ServeError as error:  # its place in the engine is lost; here it counts no more
            log.error("an adapter was not unloaded", adapter=adapter.name, reason=error.message)
            raise
        finally:
            self._gone()
        log.info("adapter unloaded", adapter=adapter.name)

    def _gone(self) -> None:
        self._held -= 1
        self._freed.set()

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # those who asked may have left

    async def close(self) -> None:
        """The engine ends: what waits is given up."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._threads.shutdown(wait=False)


def _not_found(name: str) -> ModelNotFound:
    return ModelNotFound(f"The model `{name[:100]}` does not exist here.", param="model")


def _unservable(name: str) -> ModelNotFound:
    return ModelNotFound(
        f"The model `{name}` cannot be loaded; the server's log says why.", param="model"
    )
