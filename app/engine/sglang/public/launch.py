"""Bringing up the fallback engine."""

from __future__ import annotations

import asyncio
import inspect
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from app.engine.base import Starting
from app.engine.environment import RuntimeDir
from app.engine.sglang import hardware, parser_names, pooling
from app.engine.sglang.fingerprint import fingerprint_of
from app.engine.sglang.importing import go_offline, use_cpu, will_use_cpu
from app.engine.sglang.model_files import model_path, needs_no_hub
from app.engine.sglang.moved import installed
from app.engine.sglang.options import choose_dtype, defaults, look_into_cache, name_files
from app.engine.sglang.public.bridge import Bridge
from app.engine.sglang.public.engine import PublicEngine
from app.engine.sglang.public.model import PublicModel, model_of
from app.engine.sglang.public.rendering import TemplateRenderer, Tokenizing
from app.engine.sglang.start_errors import told_in_a_line
from app.engine.sglang.watch import Watch
from app.errors import ConfigError
from app.logs.setup import log
from app.processes import raise_limits
from app.settings.catalogue import Settings
from app.types import Json

_OF_SGLANGS_RENDERER = ("default_chat_template_kwargs", "hf_chat_template_name")
"""Options that only SGLang's own way with conversations reads."""
_CANNOT = {
    "tokenizer_workers": "TOKENIZER_WORKERS",
    "nnodes": "NNODES",
    "serves_adapters": "ENABLE_LORA",
    "enable_memory_saver": "ENABLE_MEMORY_SAVER",
}


async def launch(settings: Settings, runtime: RuntimeDir, starting: Starting) -> PublicEngine:
    """Raises ConfigError or StartError with one clear line, EngineLost if a process of the engine
    ends meanwhile."""
    for field, name in _CANNOT.items():
        if int(getattr(settings, field)) > (field in ("tokenizer_workers", "nnodes")):
            raise ConfigError(f"{name}: not by SGLang's public API")
    loop, watch, bridge = asyncio.get_running_loop(), Watch(), Bridge()
    built = bridge.build(lambda: _build(settings, runtime))
    starting.loading()
    watching = loop.create_task(watch.gather(built))
    try:
        with told_in_a_line(watch, runtime):
            engine = await watch.unless_lost(built)
            _note_shared_memory(watch, runtime)
            reading = asyncio.to_thread(_read, settings, engine, threading.get_ident())
            model, tokenizing = await reading
    finally:
        watching.cancel()
    return PublicEngine(bridge, watch, model, tokenizing)


def _note_shared_memory(watch: Watch, runtime: RuntimeDir) -> None:
    """SGLang never removes what it keeps in /dev/shm."""
    for process in watch.processes:
        with suppress(OSError):
            for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
                if "/dev/shm/sglang_" in line:  # noqa: S108
                    runtime.also_remove(Path("/" + line.partition("/")[2]))


def _build(settings: Settings, runtime: RuntimeDir) -> Any:
    """In the engine thread."""
    path = model_path(settings)
    if Path(path).is_dir() and pooling.is_embedding_model(Path(path)):
        raise ConfigError("MODEL_PATH: an embedding model is not served by SGLang's public API")
    if needs_no_hub(settings, path):
        go_offline()
    raise_limits()
    on_cpu = will_use_cpu(settings.device)
    if on_cpu:
        use_cpu()
        if settings.device is None:
            log.warning("no GPU found: serving on the CPU, which is slow; DEVICE=cuda forbids it")
    import sglang
    from sglang.srt.server_args import ServerArgs

    known = inspect.signature(ServerArgs).parameters
    engine = sglang.Engine(**_options(settings, runtime, path, known, on_cpu=on_cpu))
    engine.told = engine.get_server_info()  # it runs the loop, which serves from now on
    return engine


def _options(
    settings: Settings, runtime: RuntimeDir, path: str, known: Any, *, on_cpu: bool
) -> dict[str, Any]:
    """Those of the settings that this release of SGLang knows. Raises ConfigError."""
    for name in _OF_SGLANGS_RENDERER:
        if settings.engine_args.get(name):
            raise ConfigError(f"ENGINE_ARGS: {name}: not by SGLang's public API")
    # A schema is enforced as it was tried.
    ours = {"incremental_streaming_output": False, "grammar_backend": "llguidance"}
    options = defaults(settings, on_cpu) | settings.engine_options() | {"model_path": path} | ours
    name_files(options, settings, runtime)
    hardware.complete(options, tp_size=settings.tp_size, expert_parallel=settings.expert_parallel)
    if on_cpu:
        choose_dtype(options)
    look_into_cache(options, settings)
    for option in ("tool_call_parser", "reasoning_parser"):
        options[option] = _parser(option, options.get(option))
    _check_template(options.get("chat_template"))
    for name in sorted(options.keys() - known.keys()):
        if name in settings.engine_args:
            raise ConfigError(f"ENGINE_ARGS: SGLang {installed()} has no option {name!r}")
        log.warning("this release of SGLang has no such option", option=name)
        del options[name]
    return options


def _parser(option: str, name: str | None) -> str | None:
    """By SGLang's name, as far as this release has the list of them."""
    if not name or name.lower() == "none":
        return None
    try:
        return getattr(parser_names, option)(name)  # type: ignore[no-any-return]
    except ImportError:
        return name


def _check_template(template: str | None) -> None:
    """Raises ConfigError for what Transformers cannot use."""
    if template and (template.endswith((".json", ".py")) or not Path(template).is_file()):
        raise ConfigError(
            f"CHAT_TEMPLATE: {template!r} is not served by SGLang's public API; name a file with a "
            "Jinja template"
        )


def _read(settings: Settings, engine: Any, loop_thread: int) -> tuple[PublicModel, Tokenizing]:
    """What the engine's model is. Blocks."""
    told: Json = engine.told

    def renderer(tokenizer: Any) -> TemplateRenderer:
        return TemplateRenderer(
            tokenizer,
            template=told.get("chat_template"),
            tool_call_parser=_named(told.get("tool_call_parser")),
            reasoning_parser=_named(told.get("reasoning_parser")),
        )

    # SGLang's own, which repairs some of those that Transformers makes.
    tokenizing = Tokenizing(engine.tokenizer_manager.tokenizer, renderer, loop_thread=loop_thread)
    model = model_of(settings, engine, told, tokenizing, fingerprint=fingerprint_of(told))
    return model, tokenizing


def _named(parser: Any) -> str | None:
    return None if parser in (None, "auto") else str(parser)
