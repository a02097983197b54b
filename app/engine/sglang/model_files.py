"""Which model and tokenizer SGLang loads: the demo model, a checked folder or a hub name."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from app.engine import demo, model_cache
from app.engine.base import Starting
from app.errors import ConfigError, StartError
from app.logs.setup import log
from app.settings.catalogue import Settings

_PIPS_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_WEIGHTS = ["*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.onnx", "*.h5", "*.msgpack"]


def model_path(settings: Settings, starting: Starting | None = None) -> str:
    """A folder, or a name on the hub. Blocks while the demo model is made."""
    if settings.demo:
        return str(_made_demo(Path(settings.cache_dir).expanduser(), starting))
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


def _made_demo(cache: Path, starting: Starting | None) -> Path:
    if (folder := demo.find(cache)) is not None:
        return folder
    if starting is not None:
        starting.doing("making the demo model")
    last = ""
    # In a process of its own: the conversion loads the model through another library.
    with subprocess.Popen(
        [sys.executable, "-m", "app.engine.demo", "--cache", str(cache), "--bar", "raw"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="backslashreplace",
        cwd=Path(__file__).parents[3],
    ) as making:
        assert making.stderr is not None
        for line in making.stderr:
            if (counted := _PIPS_PROGRESS.fullmatch(line.strip())) is not None:
                if starting is not None:
                    starting.fetched(int(counted[1]), int(counted[2]))
            elif text := line.strip():
                last = text
                write = log.info if text.startswith(demo.MARK) else log.debug
                write(text[:1000])
    if starting is not None:
        starting.doing(None)
    if making.returncode != 0 or (folder := demo.find(cache)) is None:
        reason = last.removeprefix("error: ")[:800]
        raise StartError(f"the demo model could not be fetched: {reason}")
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
