"""Which model and tokenizer SGLang loads: the demo model, a checked folder or a hub name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from app.engine import demo, model_cache
from app.errors import ConfigError, StartError
from app.logs.setup import log
from app.settings.catalogue import Settings

_WEIGHTS = ["*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.onnx", "*.h5", "*.msgpack"]


def model_path(settings: Settings) -> str:
    """A folder, or a name on the hub. Blocks while the demo model is fetched."""
    if settings.demo:
        return str(_fetch_demo(Path(settings.cache_dir).expanduser()))
    path = _checked(settings.model_path)
    if Path(path).exists():
        return path
    cached = model_cache.find(settings.model_cache, path, settings.revision)
    if cached is None:
        return path
    log.info("the model is in the cache: the hub is not asked for it", folder=str(cached))
    return str(cached)


def needs_no_hub(settings: Settings, path: str) -> bool:
    """The model is in the cache, and so is what else the engine loads by a name. `path`: what
    `model_path` has returned."""
    root = Path(settings.model_cache).expanduser()
    if not settings.model_cache or root not in Path(path).parents or settings.trust_remote_code:
        return False  # a model's own code may lie in another repository
    others = {
        "tokenizer_path": settings.tokenizer_path,
        "speculative_draft_model_path": settings.speculative_model,
    }
    return all(
        Path(in_cache(settings, option, name, None)).exists()
        for option, name in others.items()
        if name
    )


def in_cache(settings: Settings, option: str, name: str, revision: str | None) -> str:
    """A folder with a further model or tokenizer, if the cache has it, else its name on the hub.
    `option`: SGLang's that it is for."""
    if Path(name).expanduser().exists():
        return name
    find = model_cache.find_tokenizer if option == "tokenizer_path" else model_cache.find
    cached = find(settings.model_cache, name, revision)
    return name if cached is None else str(cached)


def _fetch_demo(cache: Path) -> Path:
    if (folder := demo.find(cache)) is not None:
        return folder
    # In a process of its own: the conversion loads the model through another library.
    made = subprocess.run(
        [sys.executable, "-m", "app.engine.demo", "--cache", str(cache)],
        stdout=subprocess.DEVNULL,
        cwd=Path(__file__).parents[3],
    )
    if made.returncode != 0 or (folder := demo.find(cache)) is None:
        raise StartError("the demo model could not be fetched; the line above says why")
    return folder


def _checked(model_path: str) -> str:
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


def tokenizer_at(revision: str, settings: Settings, options: dict[str, Any]) -> str:
    """A folder with the tokenizer of that revision: SGLang has an option only for the model's."""
    name = settings.tokenizer_path or (
        options["model_path"] if settings.demo else settings.model_path
    )
    if (cached := model_cache.find_tokenizer(settings.model_cache, name, revision)) is not None:
        return str(cached)
    if Path(name).exists():
        log.warning(f"TOKENIZER_REVISION={revision}: no effect ({name} is a local folder)")
        return str(name)
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return str(
            huggingface_hub.snapshot_download(name, revision=revision, ignore_patterns=_WEIGHTS)
        )
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        reason = str(error).strip().splitlines()[0][:300]
        raise ConfigError(f"TOKENIZER_REVISION: {reason}") from None
