"""Models in a folder of Hugging Face's form that somebody else has filled, such as RunPod's.

    models--org--name/refs/main                 the commit that the branch was at
    models--org--name/snapshots/COMMIT/...      the files, most of them links into blobs/

RunPod downloads an endpoint's model onto its machines and mounts the folder before the worker
starts: https://docs.runpod.io/serverless/endpoints/model-caching, read 2026-11. Its names were in
lower case at times, so case does not matter.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from app.logs.setup import log

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_PART = re.compile(r".*-\d+-of-\d+\.(safetensors|bin)")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def find(cache: str, name: str, revision: str | None = None) -> Path | None:
    """The folder of a model at a branch, tag or commit; None if it is not there, or not complete.
    Asks no other machine."""
    snapshot = _look_up(cache, name, revision)
    if snapshot is not None and (missing := _missing(snapshot)) is not None:
        log.warning("a cached model is not complete", folder=str(snapshot), missing=missing)
        return None
    return snapshot


def has_weights(cache: str, name: str, revision: str | None = None) -> Path | None:
    """As `find`, where the weights alone may be: SGLang downloads only those to DOWNLOAD_DIR."""
    snapshot = _look_up(cache, name, revision)
    return snapshot if snapshot is not None and _missing_weights(snapshot) is None else None


def is_begun(cache: str, name: str) -> bool:
    """There is something of it, complete or not."""
    return _folder(Path(cache).expanduser(), "models--" + name.replace("/", "--")) is not None


def called(name: str, path: str) -> str:
    """What to call a model that was asked for by `name`, and lies at `path`: the name if the folder
    is that of the hub's own cache."""
    return name if f"/models--{name.replace('/', '--')}/snapshots/" in path else path


def find_tokenizer(cache: str, name: str, revision: str | None = None) -> Path | None:
    """As `find`, for a repository of which only the tokenizer is needed."""
    snapshot = _look_up(cache, name, revision)
    return snapshot if snapshot is not None and any(snapshot.glob("tokenizer*")) else None


def is_name(text: str) -> bool:
    """Of a repository on the hub."""
    return _REPOSITORY.fullmatch(text) is not None


def _look_up(cache: str, name: str, revision: str | None) -> Path | None:
    if not cache or not is_name(name):
        return None
    folder = _folder(Path(cache).expanduser(), "models--" + name.replace("/", "--"))
    return None if folder is None else _snapshot(folder, revision)


def _folder(root: Path, name: str) -> Path | None:
    if (exact := root / name).is_dir():
        return exact
    try:
        same = [each for each in root.iterdir() if each.name.lower() == name.lower()]
    except OSError:
        return None
    return same[0] if len(same) == 1 and same[0].is_dir() else None


def _snapshot(folder: Path, revision: str | None) -> Path | None:
    """Without a revision: what `main` was, or the only snapshot that there is."""
    snapshots = folder / "snapshots"
    if revision is not None and _COMMIT.fullmatch(revision):
        return _existing(snapshots / revision)
    ref = folder / "refs" / (revision or "main")
    if ".." in ref.parts:
        return None
    try:
        return _existing(snapshots / ref.read_text().strip())
    except OSError:
        pass
    if revision not in (None, "main") or not snapshots.is_dir():
        return None
    only = [each for each in snapshots.iterdir() if each.is_dir()]
    return only[0] if len(only) == 1 else None


def _existing(folder: Path) -> Path | None:
    return folder if folder.is_dir() else None


def _missing(snapshot: Path) -> str | None:
    """A file that the model needs and that is not there, or whose link leads nowhere."""
    if not (snapshot / "config.json").is_file():
        return "config.json"
    return _missing_weights(snapshot)


def _missing_weights(snapshot: Path) -> str | None:
    for index in _INDEXES:
        if (snapshot / index).is_file():
            return _missing_part(snapshot, index)
    files = [each for pattern in _WEIGHTS for each in snapshot.glob(pattern) if each.is_file()]
    if any(_PART.fullmatch(each.name) for each in files):
        return "an index of its parts"  # some clients fetch it last
    return None if files else "weights"


def _missing_part(snapshot: Path, index: str) -> str | None:
    try:
        parts = set(json.loads((snapshot / index).read_text())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return index
    return next((str(part) for part in sorted(parts) if not (snapshot / str(part)).is_file()), None)
