"""The model's files, from the first moment on, while SGLang is imported: fetched, then read.

SGLang asks the hub for the model once it is imported, and reads its weights then. Here a thread
fetches what SGLang is going to ask for into the same cache, and says how far it is; what is on this
machine already it reads into the page cache, as far as memory allows.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from app.engine import model_cache
from app.engine.environment import hub_caches, uses_another_hub
from app.errors import ConfigError, StartError
from app.logs.setup import log
from app.settings.catalogue import DECLARATIONS, Settings

_SAY_S = 5.0
_LOOK_S = 0.5
_HUB_ANSWERS_S = 10.0
_HUB_IS_SILENT_S = 2.0
"""Until the operator is told what the start waits for."""
_LOADED = (None, "auto", "safetensors")
"""Values of LOAD_FORMAT of which it is known which files they need."""
_SMALL = (".json", ".jinja", ".model", ".txt", ".py", ".tiktoken")
_EMBEDS = "modules.json"
"""A file of sentence-transformers' models, which are served as such by their folder only."""
_STEP = 4 * 2**20
_LEFT_FREE = 2 * 2**30
"""Of the machine's memory: weights that would push others out are not read."""
_RATE_OVER_S = 10.0
_NO_SUCH = (401, 403, 404)
_CGROUP = Path("/sys/fs/cgroup/memory.max")

Report = Callable[[int, int], None]
"""Is told of bytes: fetched or read, and in all. From a thread."""


class Ahead:
    """One start's."""

    def __init__(self, path: str, settings: Settings, fetched: Report, read: Report) -> None:
        """`path`: a folder, or a name on the hub."""
        options = settings.engine_options() | settings.engine_args
        self._path, self._fetched, self._read = path, fetched, read
        self._loads = options.get("load_format") in _LOADED
        self._revision: str | None = options.get("revision")
        self._folder: str | None = options.get("download_dir")
        self._error: StartError | None = None
        self._drafts = options.get("speculative_algorithm") is not None
        self._whole: Path | None = None
        self._known = threading.Event()
        self._asked_at: float | None = None
        # What else SGLang takes for a model, such as s3://, or a file of a repository, is its.
        self._asks = (
            self._loads
            and not Path(path).exists()
            and model_cache.is_name(path)
            and not uses_another_hub()
        )
        self._thread = threading.Thread(target=self._run, name="model-ahead", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def check(self) -> None:
        """Raises ConfigError if the hub has no such model, or none for this user, and StartError if
        it does not answer; neither if the model is in its cache. Waits for the hub's answer, not
        for the files."""
        if not self._known.wait(_HUB_IS_SILENT_S):
            log.warning("the hub has not answered yet", model=self._path, waits_s=_HUB_ANSWERS_S)
        self._known.wait(_HUB_ANSWERS_S)
        if not self._known.is_set() and self._asks and not self._is_here():
            self._wait_for_the_hub(_HUB_IS_SILENT_S + _HUB_ANSWERS_S)
        if self._error is not None:
            raise self._error

    def _wait_for_the_hub(self, bound_s: float) -> None:
        """Raises StartError `bound_s` after it was asked: SGLang would wait for it without end. Its
        library is imported before, which may take as long."""
        while not self._known.wait(_LOOK_S):
            if self._asked_at is not None and time.monotonic() - self._asked_at > bound_s:
                from huggingface_hub import constants

                raise StartError(
                    f"{_named(self._path)} is not on this machine, and the hub "
                    f"({constants.ENDPOINT}) has not answered in {bound_s:g} s. {_ELSEWHERE}"
                )

    def _is_here(self) -> bool:
        return any(
            model_cache.has_weights(each, self._path, self._revision)
            for each in hub_caches(self._folder)
        )

    def check_first(self) -> None:
        """As `check`, if the model has to be fetched: before imports of many seconds, which an
        operator with a wrong name would wait for. A model that is here is not waited for."""
        if self._asks and not self._is_here():
            self.check()

    def path(self) -> str:
        """Where the model is on this machine, once all that the hub has of it is, for any of its
        files; until then what it was called.

        By a name SGLang asks the hub at every turn for what it has, which takes seconds. But by a
        name it also finds a draft model in the repository."""
        if self._whole is None or self._drafts or (self._whole / _EMBEDS).exists():
            return self._path
        return str(self._whole)

    def _run(self) -> None:
        folder: Path | None = None
        try:
            if Path(self._path).exists():
                folder = Path(self._path)
            elif self._asks:
                folder = self._fetch()
        except StartError as error:
            self._error = error
        except Exception as error:  # SGLang asks again, and says what is wrong
            log.warning("the model was not fetched ahead", reason=_in_short(error))
        finally:
            self._known.set()
        if folder is not None and folder.is_dir() and self._loads:
            with suppress(OSError):
                sizes = {each.name: each.stat().st_size for each in folder.iterdir()}
                read_ahead([folder / name for name in needed(sizes)], self._read)

    def _fetch(self) -> Path | None:
        import huggingface_hub
        from huggingface_hub import constants

        cache = self._folder or str(constants.HF_HUB_CACHE)
        # As SGLang does it: what is in a cache is served, whatever the hub has by now.
        for each in dict.fromkeys((cache, str(constants.HF_HUB_CACHE))):
            if (found := model_cache.has_weights(each, self._path, self._revision)) is not None:
                self._known.set()
                if not constants.HF_HUB_OFFLINE:
                    self._compare(huggingface_hub.HfApi(), found)
                return found
        if constants.HF_HUB_OFFLINE:
            caches = dict.fromkeys((cache, str(constants.HF_HUB_CACHE)))
            if not any(model_cache.is_begun(each, self._path) for each in caches):
                raise ConfigError(
                    f"{_named(self._path)} is not on this machine, and HF_HUB_OFFLINE forbids to "
                    f"fetch it. {_ELSEWHERE}"
                )
            return None
        hub = huggingface_hub.HfApi()
        self._asked_at = time.monotonic()
        try:
            info = self._listing(hub)
            if info.gated:
                hub.auth_check(self._path)
        except Exception as error:  # whatever it is, the operator gets one line
            raise _explained(self._path, error) from None
        self._known.set()
        sizes = {each.rfilename: each.size or 0 for each in info.siblings or ()}
        folder = self._download(huggingface_hub, needed(sizes), sizes, cache)
        self._whole = folder
        return folder

    def _listing(self, hub: Any) -> Any:
        return hub.model_info(
            self._path, revision=self._revision, timeout=_HUB_ANSWERS_S, files_metadata=True
        )

    def _compare(self, hub: Any, folder: Path) -> None:
        """Whether a cache has all files of this commit: others may have filled it in part."""
        with suppress(Exception):  # without the hub's answer it is loaded by its name, as ever
            info = self._listing(hub)
            names = needed({each.rfilename: 0 for each in info.siblings or ()})
            if names and info.sha == folder.name and all((folder / n).is_file() for n in names):
                self._whole = folder

    def _download(
        self, hub: Any, names: Sequence[str], sizes: dict[str, int], cache: str
    ) -> Path | None:
        if not names:
            return None
        total = sum(sizes[name] for name in names)
        blobs = Path(cache, "models--" + self._path.replace("/", "--"), "blobs")
        before, began = _size(blobs), time.monotonic()
        done = threading.Event()

        def watch() -> None:
            progress = Progress(total, self._fetched)
            while not done.wait(_LOOK_S):
                progress.note(_size(blobs) - before)

        # If all of it is on this machine, there is no progress to report.
        if before < total:
            threading.Thread(target=watch, name="model-progress", daemon=True).start()
        try:
            # First what says which weights there are: else SGLang would take the first for all.
            small = [name for name in names if name.endswith(_SMALL)]
            for some in (small, list(names)):
                folder = hub.snapshot_download(
                    self._path, revision=self._revision, cache_dir=cache, allow_patterns=some
                )
        finally:
            done.set()
        seconds = time.monotonic() - began
        if (fetched := _size(blobs) - before) > 0:
            self._fetched(fetched, fetched)
            log.info("the model is downloaded", mb=fetched // 10**6, seconds=round(seconds, 1))
        return Path(folder)


class Progress:
    """Of a download: one line every few seconds."""

    def __init__(self, total: int, fetched: Report) -> None:
        self._total, self._fetched = total, fetched
        self._said_at = time.monotonic()
        self._seen: list[tuple[float, int]] = [(self._said_at, 0)]

    def note(self, size: int) -> None:
        now = time.monotonic()
        size = min(size, self._total)
        self._fetched(size, self._total)
        self._seen.append((now, size))
        while len(self._seen) > 2 and now - self._seen[0][0] > _RATE_OVER_S:
            del self._seen[0]
        if now - self._said_at < _SAY_S:
            return
        self._said_at = now
        since, before = self._seen[0]
        rate = (size - before) / max(now - since, 1e-3)
        log.info(
            "downloading the model",
            mb=size // 10**6,
            of_mb=self._total // 10**6,
            mb_per_s=round(rate / 1e6, 1),
            remaining_s=round((self._total - size) / rate) if rate > 0 else None,
        )


def needed(sizes: dict[str, int]) -> list[str]:
    """Of a repository's files those that SGLang loads: as its loader of 0.5.23 chooses them."""
    top = [name for name in sizes if "/" not in name]
    weights = [name for name in top if name.endswith(".safetensors")]
    parts = [name for name in weights if not name.startswith("consolidated")]
    old = [name for name in top if name.endswith(".bin")]
    # Of several of these SGLang does not see whether all are there yet.
    weights = parts or weights or (old if len(old) == 1 else [])
    small = [name for name in sizes if name.endswith(_SMALL)]
    return sorted(small + weights) if weights else []


def read_ahead(files: Sequence[Path], report: Report = lambda done, total: None) -> int:
    """Read files into the page cache, unless they are there, or are more than it can keep; returns
    the bytes that were read. `report` is told how far it is."""
    sizes = [file.stat().st_size for file in files]
    total, before = sum(sizes), 0
    if total > _room():
        return 0
    buffer = bytearray(_STEP)
    read = 0
    for file, size in zip(files, sizes, strict=True):
        with file.open("rb", buffering=0) as opened:
            for at in _not_cached(opened.fileno(), size):
                report(before + at, total)
                read += os.preadv(opened.fileno(), [buffer], at)
        before += size
    if read:
        report(total, total)
    return read


def _room() -> int:
    """Bytes of files that stay in memory beside the engine."""
    memory = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # no bound of a container's
        memory = min(memory, int(_CGROUP.read_text()))
    return memory - _LEFT_FREE


def _not_cached(fd: int, size: int) -> Iterator[int]:
    """Where steps begin whose first page is not in memory. Raises OSError on a file system that
    does not say: there each would be read, perhaps over a network, and again."""
    page = bytearray(1)
    for at in range(0, size, _STEP):
        try:
            os.preadv(fd, [page], at, os.RWF_NOWAIT)
        except BlockingIOError:
            yield at


def _size(folder: Path) -> int:
    """Of the files of a folder, those that are still arriving included."""
    total = 0
    with suppress(OSError):
        for each in os.scandir(folder):
            with suppress(OSError):
                total += each.stat().st_blocks * 512 if each.name.endswith(".incomplete") else (
                    each.stat().st_size
                )  # fmt: skip
    return total


def _in_short(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


_ELSEWHERE = "A folder with a model's files is served, too (--model-path /models/x)."


def _named(name: str) -> str:
    """`MODEL_PATH: NAME`, and what could be given if nothing was."""
    if name != DECLARATIONS["model_path"].default:
        return f"MODEL_PATH: {name}"
    return (
        "no model is set: `serve-hathora NAME_OR_FOLDER`, MODEL_PATH or DEPLOYMENT_CONFIG_JSON "
        "sets one, --demo is a small one to try, --engine scripted needs none. The default, "
        f"{name},"
    )


def _explained(name: str, error: Exception) -> StartError:
    """Why the hub gave no model."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    hub = constants.ENDPOINT
    if isinstance(error, GatedRepoError):
        return ConfigError(
            f"{_named(name)} is gated: ask for access at {hub}/{name}, and set HF_TOKEN"
        )
    if isinstance(error, HfHubHTTPError) and error.response.status_code in _NO_SUCH:
        return ConfigError(
            f"{_named(name)} is not at {hub}, or not for this HF_TOKEN: check the name, and set "
            f"HF_TOKEN if it is private. {_ELSEWHERE}"
        )
    return StartError(
        f"{_named(name)} is not on this machine, and the hub ({hub}) does not answer: "
        f"{_in_short(error)}. {_ELSEWHERE}"
    )
