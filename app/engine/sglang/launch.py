"""Starting SGLang inside this process, and watching over its children.

Written against sglang 0.5.23; `tests/engine/test_sglang_contract.py` fails first when it changes.

    serving process                               children
    ┌───────────────────────────────┐   ipc   ┌──────────────┐
    │ event loop: Exchange ─────────┼────────>│ scheduler(s) │  the model
    │      ^                        │         └──────┬───────┘
    │      └────────────────────────┼───<── detokenizer <──┘
    │ engine thread: built Engine,  │
    │ then waits for ever           │
    └───────────────────────────────┘

Three things that SGLang would do by itself are done here instead:
- its read loop does not run, `Exchange` reads instead: the loop takes SIGTERM and SIGQUIT for
  itself at the first request, and kills the whole process tree if it fails;
- its watchdog is stopped: `Watch` sees a child's end at once, not within a second, and lets the
  requests inside be answered before the process goes;
- the children are born with SIGINT and SIGTERM blocked, so that Ctrl-C in a terminal, or a service
  manager that signals the whole group, does not take the engine away during a drain.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import importlib
import json
import multiprocessing
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import psutil

from app.engine import demo, environment
from app.engine.base import EngineLost
from app.engine.sglang import hardware, parser_names, pooling
from app.engine.sglang.adapter import SGLangEngine
from app.engine.sglang.follower import Follower
from app.engine.sglang.pooling import Pooling
from app.engine.sglang.shared import SharedEngine
from app.errors import ConfigError, StartError
from app.logs.setup import log
from app.settings.catalogue import Settings

_CHILD_POLL_S = 0.2
_FAILED_CHILD_GRACE_S = 8.0
"""SGLang looks every 5 s whether a child that it waits for has ended."""
_CPU_KV_POOL_TOKENS = 65_536
"""SGLang would take most of the memory, and ten seconds to fill it with zeros."""


async def launch(
    settings: Settings, runtime: environment.RuntimeDir, loading: Callable[[], None]
) -> SGLangEngine | Follower | SharedEngine:
    """Import SGLang and load the model; `loading` is called when the import is done.

    A Follower on any node but the first; a SharedEngine if several processes serve it.

    Raises ConfigError or StartError with one clear line, EngineLost if a child is killed meanwhile.
    """
    loop = asyncio.get_running_loop()
    built: asyncio.Future[Any] = loop.create_future()
    watch = Watch()

    def settle(engine: Any, error: BaseException | None) -> None:
        if built.done():
            return
        if error is None:
            built.set_result(engine)
        else:
            built.set_exception(error)

    def announce() -> None:
        loop.call_soon_threadsafe(loading)

    def build() -> None:
        try:
            engine = _build(settings, runtime, announce)
        except BaseException as error:  # reported to the loop; there is nobody else in this thread
            if isinstance(error, SystemExit):
                error = StartError(f"SGLang ended the start (exit {error.code})")
            loop.call_soon_threadsafe(settle, None, error)
            return
        loop.call_soon_threadsafe(settle, engine, None)
        # The children asked the kernel to be killed when the *thread* that made them ends.
        threading.Event().wait()

    threading.Thread(target=build, name="engine", daemon=True).start()
    watching = loop.create_task(watch.gather(built))
    try:
        engine, pools = await watch.unless_lost(built)
    except (StartError, EngineLost):
        raise
    except Exception as error:
        if (killed := watch.killed()) is not None:
            raise EngineLost(killed) from error
        reason = runtime.last_error() or f"{type(error).__name__}: {error}".splitlines()[0][:400]
        raise StartError(f"the engine could not be started: {reason}") from error
    finally:
        watching.cancel()
    if settings.node_rank:
        return Follower(engine, watch)
    if settings.tokenizer_workers > 1:
        return SharedEngine(engine, watch)
    return SGLangEngine(engine, pools, watch, widest_stride=settings.max_stream_interval)


def _build(
    settings: Settings, runtime: environment.RuntimeDir, loading: Callable[[], None]
) -> tuple[Any, Pooling | None]:
    """Everything that blocks, in the engine thread: demo model, imports, children, weights."""
    # Children inherit what this thread blocks. The tracker first: starting it unblocks both.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    model_path = (
        _fetch_demo(Path(settings.cache_dir).expanduser())
        if settings.demo
        else _check_model_path(settings.model_path)
    )
    on_cpu = prepare_import(settings.device)
    if on_cpu and settings.device is None:
        log.warning("no GPU found: serving on the CPU, which is slow; DEVICE=cuda forbids it")
    if settings.node_rank:
        environment.follow()
    from sglang.srt.entrypoints.engine import Engine
    from sglang.srt.server_args import ServerArgs

    options: dict[str, Any] = {
        "log_level": settings.log_level,
        "incremental_streaming_output": True,
        "enable_metrics": settings.enable_metrics,
        # A model held to a schema may otherwise write blanks until its tokens are used up.
        "constrained_json_disable_any_whitespace": True,
    }
    if on_cpu:
        options |= {
            "device": "cpu",
            "attention_backend": "torch_native",
            "max_total_tokens": _CPU_KV_POOL_TOKENS,
            # An idle scheduler polls without a pause; on a GPU machine that costs a core of many,
            # here it would be one of those that compute.
            "sleep_on_idle": True,
        }
    elif settings.device is not None:
        options["device"] = settings.device
    _check_reserved(settings.engine_args)
    options |= settings.engine_options() | {"model_path": str(model_path)}
    if settings.custom_chat_template:
        template = runtime.path / "chat-template.jinja"
        template.write_text(settings.custom_chat_template)
        options["chat_template"] = str(template)
    if settings.tokenizer_revision:
        options["tokenizer_path"] = _tokenizer_at(settings.tokenizer_revision, options)
    hardware.complete(options, tp_size=settings.tp_size, expert_parallel=settings.expert_parallel)
    pools = _embedding(str(model_path), options, on_cpu)
    if pools is not None and settings.tokenizer_workers > 1:
        raise ConfigError("TOKENIZER_WORKERS: an embedding model is served by one process")
    for option, find in (
        ("tool_call_parser", parser_names.tool_call_parser),
        ("reasoning_parser", parser_names.reasoning_parser),
    ):
        options[option] = find(options[option]) if options.get(option) else None
    _check_options(options, ServerArgs)
    import_for_requests()
    loading()
    return Engine(**options), pools


def import_for_requests() -> None:
    """Here and not at the first request that needs them, which would be on the event loop."""
    for name in ("entrypoints.openai.serving_chat", "managers.io_struct"):
        importlib.import_module(f"sglang.srt.{name}")


def _fetch_demo(cache: Path) -> Path:
    if (found := demo.find(cache)) is not None:
        return found
    # In a process of its own: the conversion loads the model through another library.
    made = subprocess.run(
        [sys.executable, "-m", "app.engine.demo", "--cache", str(cache)],
        stdout=subprocess.DEVNULL,
        cwd=Path(__file__).parents[3],
    )
    if made.returncode != 0 or (found := demo.find(cache)) is None:
        raise StartError("the demo model could not be fetched; the line above says why")
    return found


def _check_model_path(model_path: str) -> str:
    """Find the mistakes that SGLang reports late or in fifty lines."""
    path = Path(model_path).expanduser()
    looks_local = model_path.startswith(("/", "./", "../", "~"))
    if not path.exists():
        if looks_local:
            raise ConfigError(f"MODEL_PATH: there is nothing at {model_path}")
        return model_path
    config = path / "config.json"
    if path.is_dir() and config.exists():
        try:
            json.loads(config.read_text())
        except ValueError as error:
            raise ConfigError(f"MODEL_PATH: {config} is not JSON: {error}") from None
    return str(path)


def _tokenizer_at(revision: str, options: dict[str, Any]) -> str:
    """A folder with the tokenizer of that revision: SGLang can name only the model's."""
    name = options.get("tokenizer_path") or options["model_path"]
    if Path(name).exists():
        log.warning(f"TOKENIZER_REVISION={revision}: no effect ({name} is a local folder)")
        return str(name)
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    weights = ["*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.onnx", "*.h5", "*.msgpack"]
    try:
        return huggingface_hub.snapshot_download(name, revision=revision, ignore_patterns=weights)
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        reason = str(error).strip().splitlines()[0][:300]
        raise ConfigError(f"TOKENIZER_REVISION: {reason}") from None


def prepare_import(device: str | None) -> bool:
    """Make this process ready to import SGLang. True if the engine shall run on the CPU.

    Raises ConfigError if the device asked for is missing.
    """
    import torch

    on_cpu = _choose_cpu(device, torch)
    if on_cpu:
        environment.use_cpu()
    environment.use_own_models()
    return on_cpu


def _choose_cpu(device: str | None, torch: Any) -> bool:
    present = torch.accelerator.current_accelerator(check_available=True)
    if device == "cpu":
        return True
    if device is None:
        return present is None
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("DEVICE=cuda, but no usable CUDA GPU was found")
    return False


def _embedding(model_path: str, options: dict[str, Any], on_cpu: bool) -> Pooling | None:
    """What an embedding model needs, put into `options`; None if it is not one.

    Raises ConfigError if its vectors would not be what the model's own library makes of it.
    """
    folder = Path(model_path)
    if not folder.is_dir() or not pooling.is_embedding_model(folder):
        return None
    pools = pooling.check(folder)
    # Vectors over a part of the tokens, cached or in chunks, would be wrong for encoders.
    needed: dict[str, Any] = {
        "is_embedding": True, "disable_radix_cache": True, "chunked_prefill_size": -1,
    }  # fmt: skip
    if on_cpu:
        # Without chunks SGLang reserves more memory than such a machine has; half precision costs
        # time there instead of saving it.
        needed |= {
            "mem_fraction_static": options.get("mem_fraction_static", 0.4),
            "dtype": options.get("dtype", "float32"),
        }
    if pools.max_tokens is not None:
        # SGLang takes what is shorter than its context.
        needed["context_length"] = min(
            options.get("context_length", pools.max_tokens + 1), pools.max_tokens + 1
        )
    options |= needed
    # If ours failed to import, SGLang would go on with its own after a warning.
    importlib.import_module(environment.EMBEDDING_MODELS + ".bert")
    return pools


_RESERVED = {
    "model_path": "set MODEL_PATH instead",
    "device": "set DEVICE instead",
    "api_key": "set API_KEY instead",
    "admin_api_key": "the engine's own HTTP server is not used",
    "incremental_streaming_output": "this server needs it as it is",
    "skip_tokenizer_init": "this server tokenises every prompt",
    "is_embedding": "the model's files say whether it is one",
    "tokenizer_worker_num": "set TOKENIZER_WORKERS instead",
    "enable_metrics": "set ENABLE_METRICS instead",
    "grammar_backend": "requests' grammars are tried with xgrammar",
    "crash_dump_folder": "this server keeps no requests",
    "export_metrics_to_file": "set ENABLE_METRICS and scrape /metrics",
    "nnodes": "set NNODES instead",
    "node_rank": "set NODE_RANK instead",
}


def _check_reserved(engine_args: dict[str, Any]) -> None:
    for name in engine_args.keys() & _RESERVED.keys():
        raise ConfigError(f"ENGINE_ARGS: {name} cannot be set here: {_RESERVED[name]}")


def _check_options(options: dict[str, Any], server_args: Any) -> None:
    """Refuse what SGLang does not know, with the nearest name that it does."""
    import msgspec

    fields = {field.name: field for field in msgspec.structs.fields(server_args)}
    for name, value in options.items():
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"ENGINE_ARGS: SGLang has no option {name!r}{hint}")
        for about in getattr(fields[name].type, "__metadata__", ()):
            choices = getattr(about, "choices", None)
            if choices and value is not None and value not in choices:
                listed = ", ".join(map(str, choices))
                raise ConfigError(f"{name.upper()}: SGLang takes one of {listed}; not {value!r}")


class Watch:
    """Notices at once when a child process of the engine ends."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._others = {process.pid for process in multiprocessing.active_children()}
        """Not the engine's, such as RunPod's heartbeat."""
        self._seen: dict[int, Any] = {}
        self._closing = False
        self.lost: asyncio.Future[str] = self._loop.create_future()

    @property
    def processes(self) -> list[Any]:
        return list(self._seen.values())

    async def gather(self, built: asyncio.Future[Any]) -> None:
        """Take in new children until the engine is built."""
        while not built.done():
            self._look()
            await asyncio.sleep(_CHILD_POLL_S)

    async def unless_lost(self, built: asyncio.Future[Any]) -> Any:
        """The engine once it is built; EngineLost if a child is lost before.

        A child that ends by itself has usually logged why, and SGLang is about to raise: it is
        given a moment to. One that was killed says nothing.
        """
        await asyncio.wait({built, self.lost}, return_when=asyncio.FIRST_COMPLETED)
        if not built.done() and self.killed() is None:
            await asyncio.wait({built}, timeout=_FAILED_CHILD_GRACE_S)
        if not built.done():
            raise EngineLost(self.lost.result())
        engine = built.result()
        self._look()
        for process in self.processes:
            with contextlib.suppress(psutil.Error):
                process.name = psutil.Process(process.pid).cmdline()[0]  # sglang::scheduler, ...
        return engine

    def killed(self) -> str | None:
        """Which process was ended by a signal from outside, if one was."""
        return next((_end_of(p) for p in self.processes if (p.exitcode or 0) < 0), None)

    def close(self) -> None:
        """From now on a child's end is what we want."""
        self._closing = True
        for process in self.processes:
            self._loop.remove_reader(process.sentinel)

    def _look(self) -> None:
        for process in multiprocessing.active_children():
            if process.pid is not None and process.pid not in self._seen.keys() | self._others:
                self._seen[process.pid] = process
                self._loop.add_reader(process.sentinel, self._ended, process)

    def _ended(self, process: Any) -> None:
        self._loop.remove_reader(process.sentinel)
        process.join(timeout=1)
        if not self._closing and not self.lost.done():
            self.lost.set_result(_end_of(process))


def _end_of(process: Any) -> str:
    code = process.exitcode
    how = f"killed by {signal.Signals(-code).name}" if code and code < 0 else f"exit {code}"
    return f"an engine process ({process.name}, pid {process.pid}): {how}"
