"""The process environment that the engine needs, set before SGLang is imported.

SGLang and prometheus_client read some switches only from `os.environ`, partly at import; this is
the one place that writes it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

import orjson

from app.logs.engine import engine_config
from app.settings.catalogue import Settings

_STAND_IN = Path(__file__).parent / "sglang" / "cpu"


class RuntimeDir:
    """A private folder (0700) for what lives as long as the process: the engine's sockets, metric
    files, logging config. SGLang unpickles parts of what comes over those sockets, so nobody else
    may reach them.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or Path(tempfile.mkdtemp(prefix="serve-"))
        self.error_note = self.path / "engine-errors.log"

    def last_error(self) -> str | None:
        """The last line that an engine process logged as an error: of a traceback, the cause."""
        with contextlib.suppress(OSError):
            lines = [line.strip() for line in self.error_note.read_text().splitlines()]
            lines = [line for line in lines if line and not set(line) <= set("^~- ")]
            return lines[-1][:400] if lines else None
        return None

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def prepare(settings: Settings) -> RuntimeDir:
    """Set what every mode of the server needs. Before prometheus_client or SGLang is imported."""
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
    # Only the supervisor has a use for it; a model's own code would find it here.
    os.environ.pop("GCP_SERVICE_ACCOUNT_KEY_BASE64", None)
    if settings.hf_token is not None:
        # Both names: of today's library and of the older ones that models' own code may use.
        token = settings.hf_token.get_secret_value()
        os.environ |= {"HF_TOKEN": token, "HUGGING_FACE_HUB_TOKEN": token}
    tempfile.tempdir = None  # forget the folder that was cached before TMPDIR changed
    return runtime


def join() -> RuntimeDir:
    """The folder of the process that started this one; its environment is this one's, too."""
    return RuntimeDir(Path(os.environ["TMPDIR"]))


EMBEDDING_MODELS = "app.engine.sglang.models"


def use_own_models() -> None:
    """Make SGLang take our model classes where it has some of the same name. Before it is imported.

    They pool as an embedding model asks for, where SGLang's own do as they always do.
    """
    os.environ["SGLANG_EXTERNAL_MODEL_PACKAGE"] = EMBEDDING_MODELS


def follow() -> None:
    """Have SGLang return once this node's part is loaded, instead of waiting for its end."""
    os.environ["SGLANG_BLOCK_NONZERO_RANK_CHILDREN"] = "0"


def use_cpu() -> None:
    """Make SGLang run without a GPU, in this process and in the engine's.

    The CUDA build of `sgl_kernel` cannot be loaded without libcuda, and SGLang's CPU path imports
    names from it. If no real one can be imported, ours stands in (`cpu/sgl_kernel`).
    """
    os.environ["SGLANG_USE_CPU_ENGINE"] = "1"
    # CUDA builds of torch bring NCCL; finding it, SGLang would take it for processes on CPUs, too.
    os.environ["SGLANG_NCCL_SO_PATH"] = "none"
    try:
        import sgl_kernel  # noqa: F401
    except (ImportError, OSError):
        for name in [name for name in sys.modules if name.split(".")[0] == "sgl_kernel"]:
            del sys.modules[name]
        sys.path.insert(0, str(_STAND_IN))
        path = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = f"{_STAND_IN}{os.pathsep}{path}" if path else str(_STAND_IN)
