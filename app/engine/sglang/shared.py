"""One engine for several serving processes: their parent builds it, each of them attaches.

Written against sglang 0.5.23; `tests/engine/test_sglang_contract.py` fails first when it changes.

    parent                                   serving process, each of N
    ┌───────────────────────────┐            ┌─────────────────────────────┐
    │ router thread             │<─ requests ┤ event loop: TokenizerWorker │
    └──────┬────────────────────┘            └───────────────^─────────────┘
           └──> scheduler(s) ──> detokenizer ── outputs ─────┘

A request passes through the parent once, its outputs never do. The engine's answers to other
messages (a flush, a profile) come back through the parent.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from concurrent.futures import Future
from multiprocessing import resource_tracker
from typing import Any

from app.engine.base import Watched
from app.engine.model_cache import called
from app.engine.sglang.adapter import SGLangEngine
from app.engine.sglang.fingerprint import fingerprint_of
from app.engine.sglang.importing import import_for_requests, prepare_import, use_own_models
from app.engine.sglang.lean import show_what_was_hidden
from app.engine.sglang.pictures import processor_of
from app.engine.sglang.shared_memory import check_own
from app.engine.sglang.watch import end_schedulers
from app.lifecycle import Phase
from app.logs.setup import log
from app.settings.catalogue import Settings


class SharedEngine:
    """`sglang.Engine` in the parent, which sends it no requests of its own."""

    phase_when_up = Phase.WARMING
    serves = None

    def __init__(self, engine: Any, watch: Watched) -> None:
        self._engine = engine
        self._watch = watch
        self.lost = watch.lost
        # SGLang gives this process a TokenizerWorker, too. It serves no requests: it has the
        # watchdog that ours replaces, and the socket on which the schedulers are asked to end.
        self._worker = engine.tokenizer_manager
        if self._worker._subprocess_watchdog is not None:
            self._worker._subprocess_watchdog.stop()
        _show_command()
        loop = asyncio.get_running_loop()
        router = engine.tokenizer_router
        for task in (router._task, router._handle_task):
            task.add_done_callback(lambda done: loop.call_soon_threadsafe(self._router_ended, done))

    def all_warm(self) -> None:
        """Unlink the shared memory by which the serving processes attached, so it cannot leak."""
        self._engine._multi_tokenizer_shm.unlink()
        self._engine._multi_tokenizer_shm = None

    async def close(self) -> None:
        self._watch.close()
        await end_schedulers(self._worker, self._watch)
        await asyncio.to_thread(self._engine.shutdown)

    def _router_ended(self, task: Future[None]) -> None:
        """Without the router no request reaches the engine."""
        if not self.lost.done():
            reason = "cancelled" if task.cancelled() else repr(task.exception())
            log.error("SGLang's router failed", error=reason)
            self.lost.set_result(f"SGLang's router failed: {reason}"[:300])


async def attach(settings: Settings, parent: Awaitable[int]) -> SGLangEngine:
    """A part in the engine of the parent, whose pid is known once its engine is up.

    SGLang is imported meanwhile. The parent reports the engine's loss; `lost` is done only if this
    process cannot read the engine's output.
    """
    await asyncio.to_thread(_import, settings)
    owner = await parent
    engine = await asyncio.to_thread(_attach, owner)
    return SGLangEngine(
        engine,
        None,
        _WatchedElsewhere(owner),
        fingerprint=await asyncio.to_thread(fingerprint_of, engine.server_args.resolved_dict()),
        called=called(settings.model_path, engine.server_args.model_path),
        pictures=await processor_of(engine.tokenizer_manager, settings),
        widest_stride=settings.max_stream_interval,
        default_sampling=settings.default_sampling,
    )


def _import(settings: Settings) -> None:
    prepare_import(settings.device)
    use_own_models()
    import_for_requests()
    show_what_was_hidden()


def _attach(parent: int) -> Any:
    from sglang.srt.entrypoints.engine import Engine

    check_own(f"multi_tokenizer_args_{parent}")
    engine = Engine.attach_tokenizer_worker(parent)
    _show_command()
    # The shared memory is the parent's. Python's tracker takes memory that was only opened for this
    # process's own and would remove it at the end. Drop with Python 3.13: `track=False`.
    resource_tracker.unregister(f"/multi_tokenizer_args_{parent}", "shared_memory")
    return engine


def _show_command() -> None:
    """Restore this process's command line in the process list, which a TokenizerWorker renames."""
    import setproctitle

    setproctitle.setproctitle(" ".join(sys.orig_argv))


class _WatchedElsewhere:
    """The engine's processes are the parent's children: the parent watches and ends them."""

    processes = ()

    def __init__(self, owner: int) -> None:
        self.owner = owner
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def close(self) -> None:
        pass
