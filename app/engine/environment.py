"""The process environment of the server and the engine, set before SGLang is imported.

SGLang and prometheus_client read some switches only from `os.environ`, partly at import.
engine/sglang/importing.py writes those that depend on the device or the node.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path

import orjson

from app.engine.child import logging_config
from app.errors import ConfigError
from app.logs import setup as logs
from app.settings.catalogue import Settings

_ROOM_BYTES = 8 * 2**20
"""Metric files, shared memory: more than a server of usual size makes."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108


class RuntimeDir:
    """A private folder (0700) for the engine's sockets, metric files and logging config, as long as
    the process lives. SGLang unpickles parts of the messages on those sockets, so no other user may
    reach them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._elsewhere = self.path / "elsewhere"

    @staticmethod
    def make() -> RuntimeDir:
        """A new one in TMPDIR. Raises ConfigError if it cannot be made, or has no room."""
        # Not what tempfile makes of it: where TMPDIR is full, it would take another folder.
        parent = os.environ.get("TMPDIR") or None
        try:
            runtime = RuntimeDir(Path(tempfile.mkdtemp(prefix="serve-", dir=parent)))
        except OSError as error:
            raise ConfigError(f"TMPDIR: no folder can be made there: {error}") from None
        try:
            _check_room("TMPDIR", runtime.path)
        except ConfigError:
            runtime.remove()
            raise
        return runtime

    def last_error(self) -> str | None:
        """The last line that an engine process logged as an error: of a traceback, the cause."""
        return logs.last_error_of_child()

    def also_remove(self, file: Path) -> None:
        """Have `remove` remove this file, too, by whichever process it is called. Its name may be a
        pattern."""
        with self._elsewhere.open("a") as names:
            names.write(f"{file}\n")

    def remove(self) -> None:
        names: list[str] = []
        with contextlib.suppress(OSError):
            names = self._elsewhere.read_text().splitlines()
        for name in map(Path, names):
            for file in name.parent.glob(name.name):
                with contextlib.suppress(OSError):
                    file.unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)


def _check_room(name: str, folder: Path) -> None:
    """Raises ConfigError if there is no room for the files that a server makes in `folder`."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, _ROOM_BYTES)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise ConfigError(
                f"{name}: less than {_ROOM_BYTES >> 20} MB can be written: {error.strerror}"
            ) from None


def prepare(settings: Settings) -> RuntimeDir:
    """Set what every mode of the server needs, before prometheus_client or SGLang is imported.

    Raises ConfigError if there is no room for the server's files.
    """
    if settings.engine != "scripted" and _SHARED_MEMORY.is_dir():
        _check_room("/dev/shm", _SHARED_MEMORY)  # noqa: S108
    runtime = RuntimeDir.make()
    # Compiled kernels must outlive the process; their default place is below TMPDIR.
    os.environ.setdefault(
        "TORCHINDUCTOR_CACHE_DIR", f"{runtime.path.parent}/torchinductor_{os.getuid()}"
    )
    metrics = runtime.path / "metrics"
    metrics.mkdir()
    logging = runtime.path / "logging.json"
    logging.write_bytes(orjson.dumps(logging_config(settings)))
    os.environ |= {
        "PROMETHEUS_MULTIPROC_DIR": str(metrics),
        "SGLANG_LOGGING_CONFIG_PATH": str(logging),
        "TMPDIR": str(runtime.path),
        # On a crash SGLang would wait a minute for py-spy and CUDA core dumps before it ends.
        "SGLANG_PYSPY_DUMP_BEFORE_CRASH": "0",
        "SGLANG_CUDA_COREDUMP_BEFORE_CRASH": "0",
        "TOKENIZERS_PARALLELISM": "false",
        # msgpack, whose columns can be skipped, instead of pickle: engine/sglang/exchange.py.
        "SGLANG_USE_PICKLE_IPC": "0",
        # Log-probabilities are the model's own, as OpenAI's, not those after temperature.
        "SGLANG_RETURN_ORIGINAL_LOGPROB": "1",
    }
    if settings.hf_token is not None:
        # Both names: of today's library and of the older ones that models' own code may use.
        token = settings.hf_token.get_secret_value()
        os.environ |= {"HF_TOKEN": token, "HUGGING_FACE_HUB_TOKEN": token}
    tempfile.tempdir = None  # forget the folder that was cached before TMPDIR changed
    return runtime


def join() -> RuntimeDir:
    """The folder of the parent process, whose environment this process has inherited."""
    return RuntimeDir(Path(os.environ["TMPDIR"]))


def uses_another_hub() -> bool:
    """SGLang is told to ask ModelScope for models."""
    return os.environ.get("SGLANG_USE_MODELSCOPE", "").lower() in ("1", "true", "yes", "y")


def hub_caches(folder: str | None) -> tuple[str, ...]:
    """Where a model that was fetched from the hub may be: DOWNLOAD_DIR, and its library's cache,
    which is known here without importing that."""
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"
    )
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return tuple(filter(None, (folder, named or os.path.join(home, "hub"))))
