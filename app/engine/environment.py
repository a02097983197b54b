"""The process environment of the server and the engine, set before SGLang is imported.

SGLang and prometheus_client read some switches only from `os.environ`, partly at import.
engine/sglang/importing.py writes those that depend on the device or the node.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import orjson

from app.logs.engine import engine_config
from app.settings.catalogue import Settings


class RuntimeDir:
    """A private folder (0700) for the engine's sockets, metric files and logging config, as long as
    the process lives. SGLang unpickles parts of the messages on those sockets, so no other user may
    reach them.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or Path(tempfile.mkdtemp(prefix="serve-"))
        self.error_note = self.path / "engine-errors.log"
        self._elsewhere = self.path / "elsewhere"

    def last_error(self) -> str | None:
        """The last line that an engine process logged as an error: of a traceback, the cause."""
        with contextlib.suppress(OSError):
            lines = [line.strip() for line in self.error_note.read_text().splitlines()]
            lines = [line for line in lines if line and not set(line) <= set("^~- ")]
            return lines[-1][:400] if lines else None
        return None

    def also_remove(self, file: Path) -> None:
        """Have `remove` remove this file, too, by whichever process it is called."""
        with self._elsewhere.open("a") as names:
            names.write(f"{file}\n")

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            for file in self._elsewhere.read_text().splitlines():
                Path(file).unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)


def prepare(settings: Settings) -> RuntimeDir:
    """Set what every mode of the server needs, before prometheus_client or SGLang is imported."""
    # Compiled kernels must outlive the process; their default place is below TMPDIR.
    os.environ.setdefault(
        "TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor_{os.getuid()}"
    )
    runtime = RuntimeDir()
    metrics = runtime.path / "metrics"
    metrics.mkdir()
    logging_config = runtime.path / "logging.json"
    logging_config.write_bytes(orjson.dumps(engine_config(settings, runtime.error_note)))
    os.environ |= {
        "PROMETHEUS_MULTIPROC_DIR": str(metrics),
        "SGLANG_LOGGING_CONFIG_PATH": str(logging_config),
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
