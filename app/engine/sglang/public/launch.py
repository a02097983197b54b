"""Bringing up the fallback engine."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path
from typing import Any

from app.engine.base import EngineInfo, EngineLost, Starting
from app.engine.environment import RuntimeDir
from app.engine.sglang import hardware, parser_names, pooling
from app.engine.sglang.fingerprint import fingerprint_of
from app.engine.sglang.importing import go_offline, use_cpu, will_use_cpu
from app.engine.sglang.infill import Infill
from app.engine.sglang.model_files import model_path, needs_no_hub, tokenizer_at
from app.engine.sglang.moved import installed
from app.engine.sglang.options import check_reserved, choose_dtype, defaults
from app.engine.sglang.public.bridge import Bridge
from app.engine.sglang.public.engine import PublicEngine
from app.engine.sglang.public.rendering import TemplateRenderer, Tokenizing
from app.engine.sglang.sampling_names import SAMPLERS, valid_defaults
from app.engine.sglang.watch import Watch
from app.errors import ConfigError, StartError
from app.logs.setup import log
from app.processes import raise_limits
from app.settings.catalogue import Settings
from app.types import Json

_SGLANGS_OWN = ("incremental_streaming_output", "watchdog_timeout")
"""Options that are left as SGLang has them."""
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
    watch, bridge = Watch(), Bridge()
    built = bridge.build(lambda: _build(settings, runtime))
    starting.loading()
    watching = asyncio.get_running_loop().create_task(watch.gather(built))
    try:
        engine = await watch.unless_lost(built)
    except (StartError, EngineLost):
        raise
    except Exception as error:
        if (killed := watch.killed()) is not None:
            raise EngineLost(killed) from error
        reason = runtime.last_error() or f"{type(error).__name__}: {error}".splitlines()[0][:800]
        raise StartError(f"the engine could not be started: {reason}") from error
    finally:
        watching.cancel()
    fingerprint = await asyncio.to_thread(fingerprint_of, engine.told)
    return _served(settings, engine.told, bridge, watch, fingerprint)


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
    check_reserved(settings.engine_args)
    options = defaults(settings, on_cpu) | settings.engine_options() | {"model_path": path}
    if settings.custom_chat_template:
        template = runtime.path / "chat-template.jinja"
        template.write_text(settings.custom_chat_template)
        options["chat_template"] = str(template)
    if settings.tokenizer_revision:
        options["tokenizer_path"] = tokenizer_at(settings.tokenizer_revision, settings, options)
    hardware.complete(options, tp_size=settings.tp_size, expert_parallel=settings.expert_parallel)
    if on_cpu:
        choose_dtype(options)
    for option, sglang_name in (
        ("tool_call_parser", parser_names.tool_call_parser),
        ("reasoning_parser", parser_names.reasoning_parser),
    ):
        options[option] = sglang_name(options[option]) if options.get(option) else None
    for name in sorted(options.keys() - known.keys()):
        if name in settings.engine_args:
            raise ConfigError(f"ENGINE_ARGS: SGLang {installed()} has no option {name!r}")
        log.warning("this release of SGLang has no such option", option=name)
        del options[name]
    return {name: value for name, value in options.items() if name not in _SGLANGS_OWN}


def _served(
    settings: Settings, told: Json, bridge: Bridge, watch: Watch, fingerprint: str
) -> PublicEngine:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        told.get("tokenizer_path") or told["model_path"],
        revision=told.get("revision"),
        trust_remote_code=settings.trust_remote_code,
    )
    template = told.get("chat_template")

    def renderer(own: Any) -> TemplateRenderer:
        return TemplateRenderer(
            own,
            template=template,
            tool_call_parser=_named(told.get("tool_call_parser")),
            reasoning_parser=_named(told.get("reasoning_parser")),
        )

    tokenizing = Tokenizing(tokenizer, renderer)
    own, ends = _generation_of(told)
    info = _info(settings, told, tokenizing, own=own, fingerprint=fingerprint)
    return PublicEngine(bridge, watch, tokenizing, info, told, ends)


def _named(parser: Any) -> str | None:
    return None if parser in (None, "auto") else str(parser)


def _generation_of(told: Json) -> tuple[Json, list[int]]:
    """How the model's makers sample, and the ids that end an answer."""
    from transformers import GenerationConfig

    try:
        config = GenerationConfig.from_pretrained(told["model_path"], revision=told.get("revision"))
    except OSError:  # the model has none
        return {}, []
    ends = config.eos_token_id
    own = {name: value for name, value in config.to_diff_dict().items() if name in SAMPLERS}
    return own, list(ends) if isinstance(ends, list) else [] if ends is None else [ends]


def _info(
    settings: Settings, told: Json, tokenizing: Tokenizing, *, own: Json, fingerprint: str
) -> EngineInfo:
    from transformers import AutoConfig

    path, revision = told["model_path"], told.get("revision")
    config = AutoConfig.from_pretrained(
        path, revision=revision, trust_remote_code=settings.trust_remote_code
    )
    text = config.get_text_config()
    context = told.get("max_req_input_len") or told.get("context_length")
    context = int(context or text.max_position_embeddings)
    tokenizer, renderer = tokenizing.here()
    return EngineInfo(
        model_path=settings.model_path if not settings.demo else path,
        version=f"sglang {installed()}",
        fingerprint=fingerprint,
        device=str(told.get("device") or "cuda"),
        context_length=context,
        max_prompt_tokens=context - 1,
        vocab_size=text.vocab_size,
        model_type=getattr(config, "model_type", None),
        architectures=tuple(getattr(config, "architectures", None) or ()),
        default_sampling=valid_defaults(own | settings.default_sampling, {}),
        tool_call_parser=renderer.tool_call_parser,
        reasoning_parser=renderer.reasoning_parser,
        bounds_thinking=False,
        caches_prefixes=not told.get("disable_radix_cache", False),
        fills_middle=Infill.of(tokenizer) is not None,
    )
