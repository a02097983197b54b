"""Starting SGLang inside this process.

Written against sglang 0.5.23; `tests/engine/test_sglang_contract.py` fails first when it changes.

    serving process                               children
    ┌───────────────────────────────┐   ipc   ┌──────────────┐
    │ event loop: Exchange ─────────┼────────>│ scheduler(s) │  the model
    │      ^                        │         └──────┬───────┘
    │      └────────────────────────┼────────────────┘ ids, step by step
    │ engine thread: built Engine,  │
    │ then waits for ever           │
    └───────────────────────────────┘

Three things that SGLang would do by itself are done here instead:
- its read loop does not run, `Exchange` reads instead: the loop takes SIGTERM and SIGQUIT for
  itself at the first request, and kills the whole process tree if it fails;
- its watchdog is stopped: `Watch` sees the end of any process at once, not that of its own children
  within a second, so in-flight requests are answered with an error before the process exits;
- the children are born with SIGINT, SIGTERM and SIGHUP blocked, so that Ctrl-C in a terminal, its
  end, or a service manager that signals the whole group, does not take the engine away during a
  drain.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

from app import signals
from app.engine.base import Starting
from app.engine.environment import RuntimeDir
from app.engine.model_cache import called
from app.engine.sglang import shared_memory
from app.engine.sglang.adapter import SGLangEngine
from app.engine.sglang.adapters import EngineAdapters
from app.engine.sglang.ahead import Ahead
from app.engine.sglang.early import EarlyProcesses, is_bound_to_memory
from app.engine.sglang.fingerprint import fingerprint_of
from app.engine.sglang.follower import Follower
from app.engine.sglang.importing import (
    follow,
    go_offline,
    have_ids_sent,
    import_for_requests,
    prepare_import,
    use_own_models,
    will_use_cpu,
)
from app.engine.sglang.lean import show_what_was_hidden
from app.engine.sglang.memory import EngineMemory
from app.engine.sglang.model_files import model_path, needs_no_hub
from app.engine.sglang.moved import TRUSTED, found_moved, installed
from app.engine.sglang.options import engine_options, sends_ids
from app.engine.sglang.pictures import processor_of
from app.engine.sglang.pooling import Pooling
from app.engine.sglang.shared import SharedEngine
from app.engine.sglang.start_errors import told_in_a_line
from app.engine.sglang.watch import Watch
from app.errors import StartError
from app.logs.setup import log
from app.processes import raise_limits
from app.settings.catalogue import Settings

if TYPE_CHECKING:
    from app.engine.sglang.public.engine import PublicEngine


async def launch(
    settings: Settings, runtime: RuntimeDir, starting: Starting
) -> SGLangEngine | Follower | SharedEngine | PublicEngine:
    """Import SGLang and load the model.

    A Follower on any node but the first; a SharedEngine if several processes serve it; a
    PublicEngine if SGLang is another release in which something has moved that is needed here.

    Raises ConfigError or StartError with one clear line, EngineLost if a child is killed meanwhile.
    """
    if await asyncio.to_thread(_by_public_api_only, settings):
        from app.engine.sglang.public.launch import launch as launch_public

        return await launch_public(settings, runtime, starting)
    loop = asyncio.get_running_loop()
    watch = Watch()
    built = _build_in_thread(
        lambda: _build(settings, runtime, watch.started, _InLoop(loop, starting))
    )
    watching = loop.create_task(watch.gather(built))
    try:
        with told_in_a_line(watch, runtime, hint=_hint()):
            engine, pools = await watch.unless_lost(built)
    finally:
        watching.cancel()
    if settings.node_rank:
        return Follower(engine, watch)
    if settings.tokenizer_workers > 1:
        return SharedEngine(engine, watch)
    return SGLangEngine(
        engine,
        pools,
        watch,
        fingerprint=await asyncio.to_thread(fingerprint_of, engine.server_args.resolved_dict()),
        called=called(settings.model_path, engine.server_args.model_path),
        adapters=(
            EngineAdapters(engine.tokenizer_manager, runtime.path / "adapters")
            if settings.serves_adapters and pools is None
            else None
        ),
        pictures=await processor_of(engine.tokenizer_manager, settings),
        widest_stride=settings.max_stream_interval,
        reads_ids=sends_ids(settings),
        memory=EngineMemory(engine.tokenizer_manager) if _sleeps(settings, engine) else None,
        default_sampling=settings.default_sampling,
    )


def _hint() -> str:
    release = installed()
    if release == TRUSTED:
        return ""
    return f" (SGLang {release} is not the tested release; ENGINE=sglang-public)"


def _by_public_api_only(settings: Settings) -> bool:
    """The operator wants it so, or what is needed of SGLang's insides is not there. Blocks."""
    if settings.engine == "sglang-public":
        return True
    if (lines := found_moved()) is None:
        return False
    release = installed()
    if not lines:
        log.warning("SGLang is another release than the one tested with this program",
                    installed=release, tested=TRUSTED)  # fmt: skip
        return False
    log.warning(
        "something has moved in SGLang: the model is served by its public API only, which is "
        "slower and has no pictures, adapters, embeddings or sleep (docs/operations.md)",
        installed=release,
        tested=TRUSTED,
        moved=len(lines),
        first=lines[0],
    )
    return True


def _sleeps(settings: Settings, engine: Any) -> bool:
    """Where attention is spread over replicas, only the first of them says whether it is idle."""
    attention = engine.server_args.resolved_dict()["enable_dp_attention"]
    if settings.enable_memory_saver and attention:
        log.warning("ENABLE_MEMORY_SAVER: no effect beside enable_dp_attention")
    return settings.enable_memory_saver and not attention


class _InLoop:
    """Tells the event loop what the engine thread tells it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, starting: Starting) -> None:
        self._loop, self._starting = loop, starting

    def loading(self) -> None:
        self._loop.call_soon_threadsafe(self._starting.loading)

    def doing(self, what: str | None) -> None:
        self._starting.doing(what)

    def fetched(self, done: int, total: int) -> None:
        self._starting.fetched(done, total)

    def read(self, done: int, total: int) -> None:
        self._starting.read(done, total)


def _build_in_thread(build: Callable[[], Any]) -> asyncio.Future[Any]:
    """Run `build` in the engine thread; done with its result or its error."""
    loop = asyncio.get_running_loop()
    built: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if built.done():
            return
        if error is None:
            built.set_result(result)
        else:
            built.set_exception(error)

    def run() -> None:
        try:
            result = build()
        except BaseException as error:  # the only place in this thread that can report it
            if isinstance(error, SystemExit):
                error = StartError(f"SGLang ended the start (exit {error.code})")
            loop.call_soon_threadsafe(settle, None, error)
        else:
            loop.call_soon_threadsafe(settle, result, None)
        # The children asked the kernel to be killed when the *thread* that made them ends. After an
        # error, too, or it would seem to be that they were killed.
        threading.Event().wait()

    threading.Thread(target=run, name="engine", daemon=True).start()
    return built


def _build(
    settings: Settings,
    runtime: RuntimeDir,
    started: Callable[[Any], object],
    starting: Starting,
) -> tuple[Any, Pooling | None]:
    """Everything that blocks, in the engine thread: demo model, imports, children, weights."""
    # Children inherit what this thread blocks. Starting the tracker unblocks SIGINT and SIGTERM.
    signals.block_in_this_thread()
    resource_tracker.ensure_running()
    signals.block_in_this_thread()
    path = model_path(settings, starting)
    ahead = Ahead(path, settings, starting.fetched, starting.read)
    ahead.start()
    ahead.check_first()
    if needs_no_hub(settings, path):
        go_offline()
    use_own_models(path)
    if settings.node_rank:
        follow()
    raise_limits()
    if sends_ids(settings):
        have_ids_sent()
    # They begin before this process has imported PyTorch, which knows the device.
    guess = will_use_cpu(settings.device)
    early = EarlyProcesses(_early(settings, on_cpu=guess), on_cpu=guess)
    try:
        on_cpu = prepare_import(settings.device)
        if on_cpu != guess:
            early.end()
            early = EarlyProcesses(_early(settings, on_cpu=on_cpu), on_cpu=on_cpu)
        if on_cpu and settings.device is None:
            log.warning("no GPU found: serving on the CPU, which is slow; DEVICE=cuda forbids it")
        ahead.check()
        return _build_with(early, settings, runtime, started, starting, ahead, on_cpu=on_cpu)
    finally:
        early.end()


def _early(settings: Settings, *, on_cpu: bool) -> int:
    """Processes that SGLang will start on this machine and that can be started before, as far as is
    known: more cost the time of an import, and fewer gain less."""
    detokenizers = 0 if settings.node_rank or sends_ids(settings) else 1
    options = settings.engine_options()
    if options.get("dp_size", 1) > 1:
        return 1 + detokenizers  # the controller, which starts the schedulers
    if not on_cpu and is_bound_to_memory():
        return detokenizers
    tp_size = options.get("tp_size", settings.tp_size)
    tensor_parallel = tp_size if isinstance(tp_size, int) else 1
    schedulers = max(1, tensor_parallel * int(options.get("pp_size", 1)) // settings.nnodes)
    return schedulers + detokenizers


def _build_with(
    early: EarlyProcesses,
    settings: Settings,
    runtime: RuntimeDir,
    started: Callable[[Any], object],
    starting: Starting,
    ahead: Ahead,
    *,
    on_cpu: bool,
) -> tuple[Any, Pooling | None]:
    from app.engine.sglang.scheduler import ServedEngine, SingleMachineEngine

    path = ahead.path()
    use_own_models(path)
    options, pools = engine_options(settings, runtime, path, on_cpu=on_cpu)
    import_for_requests()
    show_what_was_hidden()
    shared_memory.take_over(runtime)
    starting.loading()
    engine = ServedEngine if settings.nnodes > 1 else SingleMachineEngine
    with early.used(started):
        return engine(**options), pools
